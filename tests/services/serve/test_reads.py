"""The read API on a real node: every answer equals what the queries of the command line return."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from liveprofile.alerts.cases import case_store
from liveprofile.client import NotFoundError, calls
from liveprofile.segments.members import members
from liveprofile.storage import queries
from liveprofile.storage.cql import from_ms
from liveprofile.units import HOUR_MS
from tests.services.serve.conftest import SCORES, USERS, WINDOWS, Api
from tests.support.rows.profile_rows import START_MS, WINDOW_MS

pytestmark = pytest.mark.services


def comparable(row: Any) -> dict[str, Any]:
    """A row of liveprofile.storage.queries as the API answers."""
    fields = row._asdict()
    fields.pop("digests", None)
    return json.loads(json.dumps(fields))


def test_profiles_equal_the_stored_ones(api: Api) -> None:
    with api.client() as client:
        stored = queries.profile(api.session, "u7")
        answer = client.send(calls.profile("u7", embedding=True))
        expected = comparable(stored) | {"values_at_ms": stored.window_end_ms}
        assert answer.model_dump() == expected
        batch = client.send(calls.profiles(user_ids=[*USERS, "nobody"]))
        assert [profile.user_id for profile in batch.profiles] == USERS
        assert batch.unknown == ["nobody"]
        similar = client.send(calls.similar("u7", k=5))
        assert len(similar.similar) == 5
        assert client.send(calls.similar("u7", segment="loyal")).similar
        with pytest.raises(NotFoundError):
            client.send(calls.profile("nobody"))


def test_deltas_and_past_profiles_equal_the_stored_ones(api: Api) -> None:
    stored = [comparable(row) for row in queries.deltas(api.session, "u7")]
    with api.client() as client:
        answers = [each.model_dump() for each in client.items(calls.deltas("u7", limit=2))]
        assert answers == stored
        assert len(answers) == WINDOWS
        at = datetime.fromtimestamp((START_MS + 3 * WINDOW_MS + 1) / 1_000, UTC)
        past = client.send(calls.profile_at("u7", at=at))
        assert past.window_end_ms == START_MS + 3 * WINDOW_MS
        assert past.features == {"churn": 0.25}


@pytest.mark.parametrize("limit", [1, 3, 20, 50])
def test_pages_of_scores_are_complete(api: Api, limit: int) -> None:
    stored = [comparable(row) for row in queries.scores(api.session, "u0", SCORES + 1)]
    with api.client() as client:
        answers = [each.model_dump() for each in client.items(calls.scores("u0", limit=limit))]
    assert answers == stored
    assert len(answers) == SCORES


@pytest.mark.parametrize("limit", [1, 7, 200])
def test_pages_of_flags_are_complete(api: Api, limit: int) -> None:
    with api.client() as client:
        own = list(client.items(calls.flags("u3", limit=limit)))
        assert [each.model_dump() for each in own] == [
            comparable(row) for row in queries.flags(api.session, "u3")
        ]
        everybody = list(client.items(calls.alerts(limit=limit + 20)))
    stored = queries.flags(api.session, limit=10_000)
    assert len(stored) == 2 * WINDOWS * len(USERS)
    assert [each.flag_id for each in everybody] == [
        row.flag_id
        for row in sorted(stored, key=lambda row: (-row.window_end_ms, row.user_id, row.rule_id))
    ]


@pytest.mark.parametrize("limit", [1, 4, 100])
def test_pages_of_segment_members_are_complete(api: Api, limit: int) -> None:
    with api.client() as client:
        found = list(client.items(calls.segment_members("loyal", limit=limit)))
        [segment] = client.send(calls.user_segments("u3")).items
        assert client.send(calls.segment_sizes("loyal")).items == []
    assert [each.user_id for each in found] == [
        each.user_id for each in members(api.session, "loyal")
    ]
    assert sorted(each.user_id for each in found) == sorted(USERS)
    assert (segment.segment, segment.member, segment.since_ms) == ("loyal", True, 1)


def test_trend_equals_the_counts(api: Api) -> None:
    topic = api.settings.topics.events
    with api.client() as client:
        with pytest.raises(NotFoundError, match="trends update"):
            client.send(calls.trend())
        end_ms = START_MS // HOUR_MS * HOUR_MS + 3 * HOUR_MS
        api.session.execute(
            "INSERT INTO trend_chunk (topic, number, first, end, clocks, done)"
            " VALUES (%s, 1, {0: 0}, {0: 9}, {0: %s}, true) USING TTL 3600",
            (topic, end_ms + api.settings.window.out_of_orderness_ms),
        )
        for hour, events in ((3, 5), (1, 7)):  # nothing happened two hours before the end
            api.session.execute(
                "INSERT INTO trend (topic, span, scope, category, event_type, start, chunk, events,"
                " amount, users) VALUES (%s, 'hour', 'all', '', 'all', %s, 1, %s, 2.5, 1)"
                " USING TTL 3600",
                (topic, from_ms(end_ms - hour * HOUR_MS), events),
            )
        trend = client.send(calls.trend(count=3))
        assert trend.complete_until_ms == end_ms
        assert [point.value for point in trend.points] == [5, 0, 7]
        assert [point.value for point in client.send(calls.trend(count=1)).points] == [7]


@pytest.mark.parametrize("limit", [1, 5])
def test_pages_of_cases_are_complete(api: Api, limit: int) -> None:
    with api.client() as client:
        cases = list(client.items(calls.cases(limit=limit)))
        own = list(client.items(calls.cases(user_id="u1", limit=limit)))
    assert sorted(case.rule_id for case in cases) == sorted(f"r{number}" for number in range(12))
    assert [case.model_dump() for case in own] == [
        comparable(case) for case in case_store.read_cases(api.session, "u1")
    ]


def test_analyses_read_all_users(api: Api) -> None:
    with api.client("mia", "analyst") as client:
        preview = client.send(calls.preview_segments(segments=[]))
        assert preview.users == len(USERS)
        assert all(segment.users_then == 0 for segment in preview.segments)
        assert isinstance(client.send(calls.retention()).items, list)
