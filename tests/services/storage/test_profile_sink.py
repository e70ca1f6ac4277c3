"""CassandraProfileStore and the queries on a real node, also when it is down or does not fit."""

import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from cassandra import ConsistencyLevel, InvalidRequest, OperationTimedOut
from cassandra.cluster import NoHostAvailable, Session

from liveprofile.errors import ConfigError, ServiceError, StoreError
from liveprofile.rows.profiles import PROFILE_DELTA
from liveprofile.rules.flags import PastFlags, RowPosition
from liveprofile.settings import CassandraSettings
from liveprofile.storage import queries
from liveprofile.storage.connection import open_session
from liveprofile.storage.schema import create_schema
from liveprofile.units import DAY_MS
from stack.local import Stack
from tests.support.memory.sinks import MemoryProfileSink
from tests.support.paths import ROOT
from tests.support.rows.profile_rows import (
    DIM,
    TABLES,
    WINDOW_MS,
    flag,
    profile_row,
    write_and_flush,
)
from tests.support.waiting import until
from udfs.profile.batch import StoredSums, SumsKey
from udfs.profile.store import CassandraProfileStore


def test_every_field_is_read_as_it_was_written(sink: CassandraProfileStore, session: Session):
    written = profile_row("ü \U0001f600", recency_days=1.5, active_rules=["b", "a"], flags=[flag()])
    write_and_flush(sink, written)
    profile = queries.profile(session, written.user_id)
    [delta] = queries.deltas(session, written.user_id)
    expected = {k: v for k, v in written._asdict().items() if isinstance(v, str | float | int)}
    del expected["revision"]  # of the model in what is written, of corrections in what is read
    for row in (profile, delta):
        found = {name: value for name, value in row._asdict().items() if name in expected}
        assert found == {name: expected[name] for name in found}
    assert (profile.segments, profile.embedding) == (["loyal", "new"], [1.0, 0.0, 0.0, 0.0])
    assert profile.profile == {"interests": {"café": 0.5}}
    assert (delta.active_rules, delta.digests) == (["a", "b"], written.digests)
    assert delta.delta == {"before": {"churn": 0.5}, "after": {"churn": 0.25}}

    before = [session.execute(f"SELECT * FROM {table}").all() for table in TABLES]
    write_and_flush(sink, written)  # again, as after a failure
    assert [session.execute(f"SELECT * FROM {table}").all() for table in TABLES] == before
    write_and_flush(sink, profile_row(written.user_id, 1))
    assert queries.profile(session, written.user_id).recency_days is None


def test_sums_since_an_erasure_are_those_of_the_window_before(sink: CassandraProfileStore):
    sums = (1.0, 2.5e300, -0.0)
    rows = [profile_row("back", n, later_sums=(*sums, float(n))) for n in (2, 3)]
    write_and_flush(sink, *rows, profile_row("never", window=2))
    ends_ms = [row.window_end_ms for row in rows]
    keys = [SumsKey("back", end_ms) for end_ms in (*ends_ms, ends_ms[-1] + 1)]
    assert sink.users.later_sums([*keys, SumsKey("never", ends_ms[-1])]) == [
        None,
        StoredSums(ends_ms[0], (*sums, 2.0)),
        StoredSums(ends_ms[1], (*sums, 3.0)),
        None,
    ]


def test_ttl_starts_at_the_time_of_writing(
    sink: CassandraProfileStore, session: Session, settings: CassandraSettings
):
    write_and_flush(sink, profile_row(write_lookalike=True, flags=[flag()]))
    for table, column, ttl_s in (
        ("user_profile", "churn", settings.profile_ttl_s),
        ("profile_delta", "events", settings.delta_ttl_s),
        ("risk_flag", "reason", settings.flag_ttl_s),
        ("risk_flag_by_day", "reason", settings.flag_ttl_s),
        ("user_lookalike", "embedding", settings.profile_ttl_s),
    ):
        found = session.execute(f"SELECT TTL({column}) AS ttl FROM {table}").one()
        assert ttl_s - 60 <= found.ttl <= ttl_s
    short = settings.model_copy(update={"profile_ttl_s": 1, "delta_ttl_s": 1})
    write_and_flush(CassandraProfileStore(short, DIM, session), profile_row("brief"))
    until(lambda: not (queries.profile(session, "brief") or queries.deltas(session, "brief")))


# --- flags --------------------------------------------------------------------------------------


def test_flag_history_is_that_of_the_tables_before_each_window(
    sink: CassandraProfileStore, settings: CassandraSettings, session: Session
):
    rng, memory = random.Random(1), MemoryProfileSink()
    for window in range(12):
        end_ms = profile_row(window=window).window_end_ms
        asked = [(user, RowPosition(end_ms)) for user in "uvw" if rng.random() < 0.8]
        expected = memory.past_flags(asked)
        fresh = CassandraProfileStore(settings, DIM, session)
        assert sink.users.past_flags(asked) == fresh.users.past_flags(asked) == expected
        for user in "uvw":
            active = [rule for rule in "ab" if rng.random() < 0.5]
            flags = [flag(rule) for rule in active if rng.random() < 0.5]
            row = profile_row(user, window, active_rules=active, flags=flags)
            for each in (sink, memory):
                write_and_flush(each, row)
    sink.writer.write(
        [profile_row("new", n, flags=[flag()], active_rules=["rule"]) for n in range(3)]
    )
    ends = [RowPosition(profile_row(window=n).window_end_ms) for n in range(4)]
    raised = frozenset(("rule", end) for end in ends[:3])
    expected = PastFlags(ends[2], frozenset({"rule"}), raised)
    assert sink.users.past_flags([("new", ends[3])]) == [expected], "not yet flushed"


def test_flags_are_read_by_user_and_over_all_users(sink: CassandraProfileStore, session: Session):
    for day in range(3):
        windows = range(day * DAY_MS // WINDOW_MS, day * DAY_MS // WINDOW_MS + 20)
        rows = [profile_row(f"u{n}", window, flags=[flag()]) for n, window in enumerate(windows)]
        write_and_flush(sink, *rows)
    all_flags = queries.flags(session, limit=1_000)
    ends_ms = [found.window_end_ms for found in all_flags]
    assert len(all_flags) == 60 and ends_ms == sorted(ends_ms, reverse=True)
    assert all_flags[0].evidence == {"events": 2}
    assert queries.flags(session, limit=25) == all_flags[:25]
    since_ms = all_flags[30].window_end_ms
    assert queries.flags(session, since_ms=since_ms, limit=1_000) == all_flags[:31]
    of_user = [found for found in all_flags if found.user_id == "u7"]
    assert queries.flags(session, "u7") == of_user
    assert queries.flags(session, "u7", since_ms=of_user[1].window_end_ms) == of_user[:2]
    assert queries.flags(session, "nobody") == []


# --- other queries ------------------------------------------------------------------------------


def test_similar_users_are_found_with_and_without_segment(
    sink: CassandraProfileStore, session: Session
):
    directions = {"u": (1, 0), "near": (1, 0.1), "far": (1, 3), "opposite": (-1, 0)}
    for name, (x, y) in directions.items():
        vector = np.array([x, y, 0, 0], np.float32) / np.float32(np.hypot(x, y))
        segments = ["loyal"] if name == "far" else ["new"]
        row = profile_row(name, embedding=vector, segments=segments, write_lookalike=True)
        write_and_flush(sink, row)
    write_and_flush(sink, profile_row("never written to the table"))
    alike = queries.similar_users(session, "u", 3)
    assert [user.user_id for user in alike] == ["near", "far", "opposite"]
    assert alike[0].cosine > 0.99 and alike[2].cosine < 0.01
    assert [user.user_id for user in queries.similar_users(session, "u", 3, "loyal")] == ["far"]
    write_and_flush(sink, profile_row("near", 9, segments=["old"], index_segments=True))
    assert queries.similar_users(session, "u", 3, "old") == [alike[0]._replace(segments=["old"])]
    assert queries.similar_users(session, "nobody", 3) is None


def test_scan_of_digests_reads_every_delta_once(sink: CassandraProfileStore, session: Session):
    rows = [profile_row(f"u{n}", window) for n in range(300) for window in range(3)]
    write_and_flush(sink, *rows)
    found = list(queries.scan_digests(session))
    assert sorted(found) == sorted(
        queries.WindowDigests(r.user_id, r.window_start_ms, r.window_end_ms, r.events, r.digests)
        for r in rows
    )
    [_, end_ms, _] = sorted({r.window_end_ms for r in rows})
    some = list(queries.scan_digests(session, (end_ms, end_ms)))
    assert sorted(some) == sorted(row for row in found if row.window_end_ms == end_ms)


def test_queries_of_the_documentation_run(sink: CassandraProfileStore, session: Session):
    text = (ROOT / "docs" / "reading.md").read_text(encoding="utf-8")
    statements = [
        statement.replace("[0.1, ...]", "[1, 0, 0, 0]")
        for block in re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
        for statement in block.split(";")
        if statement.strip()
    ]
    assert len(statements) >= 8
    write_and_flush(sink, profile_row("42", segments=["loyal"], write_lookalike=True))
    for statement in statements:
        prepared = session.prepare(statement)
        prepared.consistency_level = ConsistencyLevel.LOCAL_ONE
        session.execute(prepared, [0] * len(prepared.column_metadata))


def test_connections_disable_nagles_algorithm(session: Session):
    sockets = [
        connection._socket
        for holder in session.cluster.get_connection_holders()
        for connection in holder.get_connections()
    ]
    assert sockets
    assert all(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for sock in sockets)


def test_row_larger_than_a_batch_is_written(sink: CassandraProfileStore, session: Session):
    large = b'{"x":"' + b"y" * 200_000 + b'"}'
    write_and_flush(sink, *(profile_row(f"large{n}", delta=large) for n in range(3)))
    assert all(len(queries.deltas(session, f"large{n}")[0].delta["x"]) == 200_000 for n in range(3))


# --- failures -----------------------------------------------------------------------------------


@contextmanager
def paused(stack: Stack, seconds: float) -> Iterator[None]:
    """The node does not answer for so long, or until the block ends."""
    stack.cassandra.pause()
    repair = threading.Timer(seconds, stack.cassandra.resume)
    repair.start()
    try:
        yield
    finally:
        repair.cancel()
        repair.join()
        stack.cassandra.resume()


def impatient(settings: CassandraSettings, **changes: object) -> CassandraSettings:
    return settings.model_copy(update={"request_timeout_ms": 1_000} | changes)


def test_refused_write_raises_at_once_and_on_every_later_call(settings: CassandraSettings):
    own = settings.model_copy(update={"retry_timeout_ms": 60_000})
    with open_session(own) as session:
        sink = CassandraProfileStore(own, DIM, session)
        session.execute("DROP TABLE profile_delta", timeout=60)
        started_s = time.monotonic()
        try:
            with pytest.raises(StoreError, match=r"refused: InvalidRequest.*profile_delta"):
                write_and_flush(sink, profile_row())
            with pytest.raises(InvalidRequest, match="profile_delta"):
                CassandraProfileStore(own, DIM, session)
            assert time.monotonic() - started_s < 30
            for later in (sink.writer.flush, lambda: sink.writer.write([profile_row("another")])):
                with pytest.raises(StoreError, match="refused"):
                    later()
        finally:
            [create] = PROFILE_DELTA.create()
            session.execute(create.replace("{keyspace}", own.keyspace), timeout=60)


def test_node_that_hangs_delays_set_up_reads_and_writes(settings: CassandraSettings, stack: Stack):
    own, seconds = impatient(settings), 8.0
    row = ("u", RowPosition(1))
    with open_session(own) as session:
        for wait_for in (
            lambda: CassandraProfileStore(own, DIM, session),
            lambda: CassandraProfileStore(own, DIM, session).users.past_flags([row]),
        ):
            with paused(stack, 3.0):
                assert wait_for()
        sink, started_s = CassandraProfileStore(own, DIM, session), time.monotonic()
        with paused(stack, seconds):
            rows = [profile_row(f"during-{n}") for n in range(100)]
            for row in rows:
                write_and_flush(sink, row)
            assert time.monotonic() - started_s > seconds, "the writes ended before the outage"
        assert all(queries.profile(session, row.user_id) for row in rows)


def test_outage_longer_than_retry_timeout_raises(settings: CassandraSettings, stack: Stack):
    own = impatient(settings, retry_timeout_ms=2_000)
    with open_session(own) as session:
        sink = CassandraProfileStore(own, DIM, session)
        for attempt, error, message in (
            (
                lambda: write_and_flush(sink, profile_row()),
                StoreError,
                r"write kept failing for \d+\.\d s .*= 2000\): ",
            ),
            (
                lambda: CassandraProfileStore(own, DIM, session),
                (OperationTimedOut, NoHostAvailable),
                None,
            ),
        ):
            started_s = time.monotonic()
            with paused(stack, 30.0), pytest.raises(error, match=message):
                attempt()
            assert 1.5 < time.monotonic() - started_s < 20


@pytest.mark.parametrize(
    ("changes", "dim", "error", "message"),
    [
        ({"port": 1}, DIM, ServiceError, r"Cassandra at 127\.0\.0\.1:1 .*refused"),
        ({"keyspace": "absent"}, DIM, ServiceError, "no keyspace absent: `liveprofile job setup`"),
        ({}, DIM + 1, ConfigError, r"vector<float, 4> .* vector<float, 5>"),
    ],
    ids=["unreachable", "no keyspace", "another embedding"],
)
def test_sink_that_does_not_fit_raises(
    changes: dict[str, object],
    dim: int,
    error: type[Exception],
    message: str,
    settings: CassandraSettings,
):
    with pytest.raises(error, match=message):
        CassandraProfileStore(settings.model_copy(update=changes), dim)


def test_row_or_schema_of_another_embedding_size_raises(
    sink: CassandraProfileStore, settings: CassandraSettings
):
    with pytest.raises(ConfigError, match=r"vector<float, 4> .* vector<float, 5>"):
        create_schema(settings, DIM + 1)
    with pytest.raises(ValueError, match=r"shape \(5,\): the tables need \(4,\)"):
        sink.writer.write([profile_row(embedding=np.zeros(DIM + 1, np.float32))])
