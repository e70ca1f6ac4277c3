"""The read API on a real node: every answer equals what the queries of the command line return."""

import itertools
import json
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from cassandra.cluster import Session

from liveprofile.storage import queries
from liveprofile_client import NotFoundError, calls
from services.alerts import case_store
from services.segments import members
from tests.services.serve.conftest import SCORES, USERS, WINDOWS, Api
from tests.support.rows.profile_rows import START_MS, WINDOW_MS


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
        assert answer == expected
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
        answers = list(client.items(calls.deltas("u7", limit=2)))
        assert answers == stored
        assert len(answers) == WINDOWS
        at = datetime.fromtimestamp((START_MS + 3 * WINDOW_MS + 1) / 1_000, UTC)
        past = client.send(calls.profile("u7", at=at))
        assert past.window_end_ms == START_MS + 3 * WINDOW_MS
        assert past.features == {"churn": 0.25}


def flags_of_all(session: Session) -> list[Any]:
    stored = queries.flags(session, limit=10_000)
    return sorted(stored, key=lambda row: (-row.window_end_ms, row.user_id, row.rule_id))


PAGED = {
    "scores": (
        partial(calls.scores, "u0"),
        lambda session: queries.scores(session, "u0", 100),
        SCORES,
    ),
    "flags": (
        partial(calls.flags, "u3"),
        lambda session: queries.flags(session, "u3"),
        2 * WINDOWS,
    ),
    "cases": (
        partial(calls.cases, user_id="u1"),
        lambda session: case_store.read_cases(session, "u1"),
        3,
    ),
    "alerts": (calls.alerts, flags_of_all, 2 * WINDOWS * len(USERS)),
    "members": (
        partial(calls.segment_members, "loyal"),
        lambda session: members(session, "loyal"),
        len(USERS),
    ),
}


@pytest.mark.parametrize(
    ("name", "limit"),
    [*itertools.product(PAGED, (3, 200)), ("scores", 1), ("flags", 1), ("cases", 1)],
)
def test_pages_are_complete(api: Api, name: str, limit: int) -> None:
    call, read, count = PAGED[name]
    with api.client() as client:
        answers = list(client.items(call(limit=limit)))
    stored = [comparable(row) for row in read(api.session)]
    assert len(answers) == len(stored) == count
    if name in ("scores", "flags", "cases"):
        assert answers == stored
    for answer, row in zip(answers, stored, strict=True):
        assert {key: row[key] for key in answer if key in row}.items() <= answer.items()


def test_segments_of_a_user(api: Api) -> None:
    with api.client() as client:
        [segment] = client.send(calls.user_segments("u3"))["items"]
        assert client.send(calls.segment_sizes("loyal"))["items"] == []
    assert (segment.segment, segment.member, segment.since_ms) == ("loyal", True, 1)


def test_analyses_read_all_users(api: Api) -> None:
    with api.client("mia", "analyst") as client:
        preview = client.send(calls.preview_segments(segments=[]))
        assert preview.users == len(USERS)
        assert all(segment.users_then == 0 for segment in preview.segments)
