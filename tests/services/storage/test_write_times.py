"""The write times of docs/data-contract.md, section 8, for every table that the job writes.

The sinks write to a real node. Each test has a user of its own.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from cassandra.cluster import Session

from liveprofile.rows.risk import flag_bucket, score_hour_ms
from liveprofile.settings import CassandraSettings
from liveprofile.storage.cql import from_ms, now_ms
from liveprofile.units import MINUTE_MS
from tests.support.rows import profile_rows, scored_events
from tests.support.rows.profile_rows import DIM, profile_row
from tests.support.rows.scored_events import scored_event
from udfs.profile.row import ProfileRow
from udfs.profile.sink import CassandraProfileSink
from udfs.scoring.drift_store import CassandraDriftStore, DriftDecision, DriftState
from udfs.scoring.sink import CassandraScoringSink

pytestmark = pytest.mark.services

# Cassandra counts expiry in whole seconds.
NEXT_SECOND_S = 1.1
TTL_S = 3_600
MAX_REVISION = 999


class Pipeline(NamedTuple):
    """Writes row `number` of a user; `version` gives every column that can differ a value."""

    write: Callable[[str, int, str], None]
    end_ms: Callable[[int], int]  # window end or event time of row `number`
    revision: int
    columns: dict[str, str]  # table: one of its columns


def write_window(sink: CassandraProfileSink, user_id: str, number: int, version: str) -> None:
    value = ord(version)
    flag = profile_rows.flag(
        value=value, message=version, evidence={"events": value}, rules_version=version
    )
    sink.write(
        [
            profile_row(
                user_id,
                number,
                model_version=version,
                churn=1 / value,
                expected_spend=value,
                recency_days=value,
                purchases_decayed=1 / value,
                events=value,
                active_rules=[version],
                delta=f'{{"{version}":1}}'.encode(),
                digests=bytes([255 - value]) * 8,
                embedding=np.array([value, 1 / value, 0, 0], np.float32),
                write_lookalike=True,
                flags=[flag],
            )
        ]
    )
    sink.flush()


def write_event(sink: CassandraScoringSink, user_id: str, number: int, version: str) -> None:
    value = ord(version)
    flag = scored_events.flag(hour=number, value=value, threshold=1 / value, message=version)
    sink.write(
        [
            scored_event(
                user_id,
                number,
                score=1 / value,
                model_version=version,
                rules_version=version,
                active_rules=[version],
                flags=[flag],
            )
        ]
    )
    sink.flush()


@pytest.fixture(params=["window", "event"])
def pipeline(
    request: pytest.FixtureRequest, settings: CassandraSettings, session: Session
) -> Pipeline:
    flags = {"risk_flag": "reason", "risk_flag_by_day": "reason"}
    if request.param == "window":
        profiles = CassandraProfileSink(settings, DIM, session)
        return Pipeline(
            lambda *row: write_window(profiles, *row),
            lambda number: profile_row(window=number).window_end_ms,
            profile_row().revision,
            {"user_profile": "churn", "profile_delta": "events", "user_lookalike": "embedding"}
            | flags,
        )
    scores = CassandraScoringSink(settings, TTL_S, session)
    return Pipeline(
        lambda *row: write_event(scores, *row),
        lambda number: scored_event(hour=number).event_ms,
        0,
        {"risk_score_by_hour": "score"} | flags,
    )


@pytest.fixture
def user_id() -> str:
    return uuid.uuid4().hex


def partition(table: str, user_id: str, end_ms: int) -> tuple[str, tuple[Any, ...]]:
    """A condition for the user's rows, and its values."""
    if table == "risk_score_by_hour":
        return "user_id = %s AND hour = %s", (user_id, from_ms(score_hour_ms(end_ms)))
    if table != "risk_flag_by_day":
        return "user_id = %s", (user_id,)
    end = from_ms(end_ms)
    return (
        "day = %s AND bucket = %s AND window_end = %s AND user_id = %s",
        (end.date(), flag_bucket(user_id), end, user_id),
    )


def stored(session: Session, pipeline: Pipeline, user_id: str, number: int) -> dict[str, list[Any]]:
    """The user's rows in each table; of risk_flag_by_day those of row `number`."""
    found = {}
    for table in pipeline.columns:
        where, values = partition(table, user_id, pipeline.end_ms(number))
        found[table] = session.execute(f"SELECT * FROM {table} WHERE {where}", values).all()
    return found


def delete(session: Session, pipeline: Pipeline, user_id: str, number: int, up_to_us: int) -> None:
    """The statement of docs/reading.md, for each table."""
    for table in pipeline.columns:
        where, values = partition(table, user_id, pipeline.end_ms(number))
        session.execute(f"DELETE FROM {table} USING TIMESTAMP {up_to_us} WHERE {where}", values)


def without_user(rows: list[Any]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row._asdict().items() if name not in ("user_id", "bucket")}
        for row in rows
    ]


def row_counts(found: dict[str, list[Any]]) -> set[int]:
    return set(map(len, found.values()))


def test_write_time_is_window_end_or_event_time_plus_revision(
    pipeline: Pipeline, session: Session, user_id: str
) -> None:
    pipeline.write(user_id, 0, "a")
    for table, column in pipeline.columns.items():
        where, values = partition(table, user_id, pipeline.end_ms(0))
        query = f"SELECT WRITETIME({column}) FROM {table} WHERE {where}"
        assert session.execute(query, values).one()[0] == (
            pipeline.end_ms(0) * 1_000 + pipeline.revision
        ), table


def test_delete_up_to_a_time_removes_earlier_rows_and_hides_their_replay(
    pipeline: Pipeline, session: Session, user_id: str
) -> None:
    pipeline.write(user_id, 0, "a")
    delete(session, pipeline, user_id, 0, pipeline.end_ms(0) * 1_000 + MAX_REVISION)
    assert row_counts(stored(session, pipeline, user_id, 0)) == {0}
    pipeline.write(user_id, 0, "a")
    assert row_counts(stored(session, pipeline, user_id, 0)) == {0}
    pipeline.write(user_id, 1, "a")
    delete(session, pipeline, user_id, 1, pipeline.end_ms(0) * 1_000 + MAX_REVISION)
    assert row_counts(stored(session, pipeline, user_id, 1)) == {1}


def test_delete_with_the_present_time_erases_a_user(
    pipeline: Pipeline, session: Session, user_id: str
) -> None:
    for _ in "before the delete", "a replay after it":
        for number in 0, 1:
            pipeline.write(user_id, number, "a")
            delete(session, pipeline, user_id, number, now_ms() * 1_000)
        for number in 0, 1:
            assert row_counts(stored(session, pipeline, user_id, number)) == {0}


@pytest.mark.parametrize(("first", "second"), [("a", "b"), ("b", "a")])
def test_replay_with_other_values_replaces_whole_rows(
    first: str, second: str, pipeline: Pipeline, session: Session, user_id: str
) -> None:
    other = uuid.uuid4().hex
    pipeline.write(user_id, 0, first)
    time.sleep(NEXT_SECOND_S)
    pipeline.write(user_id, 0, second)
    pipeline.write(other, 0, second)
    both, only_second = (stored(session, pipeline, user, 0) for user in (user_id, other))
    for table in pipeline.columns:
        assert without_user(both[table]) == without_user(only_second[table]), table


@pytest.mark.parametrize("last", ["old", "new"])
def test_of_two_jobs_the_one_with_the_newer_model_leaves_its_rows(
    last: str, settings: CassandraSettings, session: Session, user_id: str
) -> None:
    """Each has a sink of its own; both write the same second, and one is windows behind."""
    sinks = {name: CassandraProfileSink(settings, DIM, session) for name in ("old", "new")}
    other = uuid.uuid4().hex
    order = ("new", "old") if last == "old" else ("old", "new")

    def row(name: str, user: str, number: int) -> ProfileRow:
        value = {"old": 9, "new": 1}[name]  # of two equal write times the larger value would win
        return profile_row(
            user,
            number,
            model_version=name,
            revision={"old": 1, "new": 2}[name],
            churn=value,
            recency_days=value,
            delta=f'{{"{value}":1}}'.encode(),
            flags=[profile_rows.flag(value=value, message=name)],
        )

    for name in order:
        for number in range(4):
            sinks[name].write([row(name, user_id, number)])
            sinks[name].flush()
    for number in range(4):
        sinks["new"].write([row("new", other, number)])
    sinks["new"].flush()
    for table in ("user_profile", "profile_delta", "risk_flag"):
        query = f"SELECT * FROM {table} WHERE user_id = %s"
        both, only_new = (session.execute(query, (user,)).all() for user in (user_id, other))
        assert without_user(both) == without_user(only_new), table


@pytest.mark.parametrize("table", ["user_profile", "user_lookalike"])
def test_replayed_window_does_not_replace_a_later_one(
    table: str, settings: CassandraSettings, session: Session, user_id: str
) -> None:
    sink = CassandraProfileSink(settings, DIM, session)
    write_window(sink, user_id, 1, "a")
    query = f"SELECT * FROM {table} WHERE user_id = %s"
    later = session.execute(query, (user_id,)).all()
    time.sleep(NEXT_SECOND_S)
    write_window(sink, user_id, 0, "b")
    assert session.execute(query, (user_id,)).all() == later


def test_two_writes_of_a_window_unite_lookalike_segments_and_keep_null_recency(
    settings: CassandraSettings, session: Session, user_id: str
) -> None:
    """The exceptions in docs/operate.md."""
    sink = CassandraProfileSink(settings, DIM, session)
    for segments, recency_days in ((["new"], None), (["loyal"], 1.0)):
        row = profile_row(
            user_id, segments=segments, recency_days=recency_days, write_lookalike=True
        )
        profile_rows.write_and_flush(sink, row)
        time.sleep(NEXT_SECOND_S)
    where = f"WHERE user_id = '{user_id}'"
    [lookalike] = session.execute(f"SELECT segments FROM user_lookalike {where}").all()
    assert set(lookalike.segments) == {"new", "loyal"}
    [profile] = session.execute(f"SELECT segments, recency_days FROM user_profile {where}").all()
    assert (set(profile.segments), profile.recency_days) == ({"loyal"}, None)


@pytest.fixture
def drift_store(settings: CassandraSettings, session: Session) -> Iterator[CassandraDriftStore]:
    yield CassandraDriftStore(session, settings, TTL_S)


def test_drift_tables_are_written_with_the_present_time(
    drift_store: CassandraDriftStore, session: Session, user_id: str
) -> None:
    scope, start_ms, before_us = user_id, profile_rows.START_MS, now_ms() * 1_000
    drift_store.write(scope, start_ms, "w", np.zeros((1, 1), int))
    state = DriftState(start_ms + 1, None, 0, "w", start_ms, "", sent=True)
    assert drift_store.decide(scope, DriftState(), state, DriftDecision(start_ms, 1, False, "{}"))
    for query in (
        f"SELECT WRITETIME(counts) FROM risk_histogram WHERE day = '2017-11-26'"
        f" AND reference = '{scope}'",
        f"SELECT WRITETIME(events) FROM drift_state WHERE scope = '{scope}'",
    ):
        [(written_us,)] = session.execute(query).all()
        assert abs(written_us - before_us) < MINUTE_MS * 1_000
