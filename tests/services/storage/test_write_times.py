"""The write times of docs/data-contract.md, section 8, for every table that the job writes.

The sinks write to a real node. Each test has a user of its own.
"""

import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from cassandra.cluster import Session

from liveprofile.rows.risk import flag_bucket, score_hour_ms
from liveprofile.settings import CassandraSettings
from liveprofile.storage.cql import from_ms
from tests.support.rows import profile_rows, scored_events
from tests.support.rows.profile_rows import DIM, profile_row
from tests.support.rows.scored_events import scored_event
from udfs.profile.rows import ProfileRow
from udfs.profile.store import CassandraProfileStore
from udfs.scoring.store import CassandraScoringStore, ScoredEvent

NEXT_SECOND_S = 1.1  # Cassandra counts expiry in whole seconds
MAX_REVISION = 999
FLAGS = {"risk_flag": "reason", "risk_flag_by_day": "reason"}


def window(user_id: str, number: int, version: str) -> ProfileRow:
    """`version` gives every column that can differ a value."""
    value = ord(version)
    evidence = {"events": value}
    flag = profile_rows.flag(value=value, message=version, evidence=evidence, rules_version=version)
    return profile_row(
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


def event(user_id: str, number: int, version: str) -> ScoredEvent:
    value = ord(version)
    versions = {"model_version": version, "rules_version": version}
    flag = scored_events.flag(hour=number, value=value, threshold=1 / value, message=version)
    rules = {"active_rules": [version], "flags": [flag]}
    return scored_event(user_id, number, score=1 / value, **versions, **rules)


class Pipeline(NamedTuple):
    sink: Any
    row: Callable[[str, int, str], Any]  # number `number` of a user
    end_ms: Callable[[int], int]  # window end or event time of row `number`
    revision: int
    columns: dict[str, str]  # table: one of its columns

    def write(self, user_id: str, number: int, version: str) -> None:
        self.sink.writer.write([self.row(user_id, number, version)])
        self.sink.writer.flush()


@pytest.fixture(params=["window", "event"])
def pipeline(
    request: pytest.FixtureRequest, settings: CassandraSettings, session: Session
) -> Pipeline:
    if request.param == "window":
        tables = {"user_profile": "churn", "profile_delta": "events", "user_lookalike": "embedding"}
        return Pipeline(
            CassandraProfileStore(settings, DIM, session),
            window,
            lambda number: profile_row(window=number).window_end_ms,
            profile_row().revision,
            tables | FLAGS,
        )
    return Pipeline(
        CassandraScoringStore(settings, 3_600, session),
        event,
        lambda number: scored_event(hour=number).event_ms,
        0,
        {"risk_score_by_hour": "score"} | FLAGS,
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


def without_user(rows: list[Any]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row._asdict().items() if name not in ("user_id", "bucket")}
        for row in rows
    ]


def test_write_time_is_window_end_or_event_time_plus_revision(
    pipeline: Pipeline, session: Session, user_id: str
) -> None:
    pipeline.write(user_id, 0, "a")
    for table, column in pipeline.columns.items():
        where, values = partition(table, user_id, pipeline.end_ms(0))
        query = f"SELECT WRITETIME({column}) FROM {table} WHERE {where}"
        written_us = pipeline.end_ms(0) * 1_000 + pipeline.revision
        assert session.execute(query, values).one()[0] == written_us, table


def test_delete_up_to_a_time_removes_earlier_rows_and_hides_their_replay(
    pipeline: Pipeline, session: Session, user_id: str
) -> None:
    """The statement of docs/reading.md, for each table."""

    def delete_and_count(number: int) -> set[int]:
        up_to_us = pipeline.end_ms(0) * 1_000 + MAX_REVISION
        for table in pipeline.columns:
            where, values = partition(table, user_id, pipeline.end_ms(number))
            session.execute(f"DELETE FROM {table} USING TIMESTAMP {up_to_us} WHERE {where}", values)
        return set(map(len, stored(session, pipeline, user_id, number).values()))

    for _ in "before the delete", "a replay after it":
        pipeline.write(user_id, 0, "a")
        assert delete_and_count(0) == {0}
    pipeline.write(user_id, 1, "a")
    assert delete_and_count(1) == {1}


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


@pytest.mark.parametrize("order", [("new", "old"), ("old", "new")])
def test_of_two_jobs_the_one_with_the_newer_model_leaves_its_rows(
    order: tuple[str, str], settings: CassandraSettings, session: Session, user_id: str
) -> None:
    """Each has a sink of its own; both write the same second, and one is windows behind."""
    sinks = {name: CassandraProfileStore(settings, DIM, session) for name in order}
    other = uuid.uuid4().hex

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

    for name, user in ((order[0], user_id), (order[1], user_id), ("new", other)):
        for number in range(4):
            profile_rows.write_and_flush(sinks[name], row(name, user, number))
    for table in ("user_profile", "profile_delta", "risk_flag"):
        query = f"SELECT * FROM {table} WHERE user_id = %s"
        both, only_new = (session.execute(query, (user,)).all() for user in (user_id, other))
        assert without_user(both) == without_user(only_new), table
    pipeline_row = profile_row(user_id, 0, revision=3, churn=0.5)
    profile_rows.write_and_flush(sinks["new"], pipeline_row)  # replays an earlier window
    [profile] = session.execute("SELECT * FROM user_profile WHERE user_id = %s", (user_id,)).all()
    assert profile.churn == 1.0
