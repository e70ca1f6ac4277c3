"""CassandraProfileSink and the queries on a real node."""

from __future__ import annotations

import json
import random
import re
import socket

import numpy as np
import pytest
from cassandra import ConsistencyLevel
from cassandra.cluster import Session

from liveprofile.rules.flags import FlagHistory, FlagQuery, RowPosition
from liveprofile.settings import CassandraSettings
from liveprofile.storage import queries
from liveprofile.units import DAY_MS, MINUTE_MS
from tests.support.memory.sinks import MemoryProfileSink
from tests.support.paths import ROOT
from tests.support.rows.profile_rows import DIM, TABLES, flag, profile_row, write_and_flush
from tests.support.waiting import until
from udfs.privacy import StoredSums, SumsKey
from udfs.profile.sink import CassandraProfileSink

pytestmark = pytest.mark.services


def test_every_field_is_read_as_it_was_written(sink: CassandraProfileSink, session: Session):
    written = profile_row(user_id="ü \U0001f600", recency_days=1.5, active_rules=["b", "a"])
    write_and_flush(sink, written)

    profile = queries.profile(session, written.user_id)
    assert profile == queries.StoredProfile(
        user_id=written.user_id,
        window_start_ms=written.window_start_ms,
        window_end_ms=written.window_end_ms,
        model_version="test-1",
        feature_version=1,
        churn=0.25,
        expected_spend=12.5,
        recency_days=1.5,
        purchases_decayed=1.5,
        amount_decayed=20.25,
        events_total=7,
        segments=["loyal", "new"],
        profile={"interests": {"café": 0.5}},
        embedding=[1.0, 0.0, 0.0, 0.0],
    )
    assert queries.deltas(session, written.user_id) == [
        queries.StoredDelta(
            user_id=written.user_id,
            window_start_ms=written.window_start_ms,
            window_end_ms=written.window_end_ms,
            model_version="test-1",
            events=2,
            amount=20.25,
            embedding_distance=0.125,
            surprise=3.5,
            active_rules=["a", "b"],
            delta={"before": {"churn": 0.5}, "after": {"churn": 0.25}},
            digests=bytes(range(16)),
        )
    ]


def test_recency_without_purchase_is_none(sink: CassandraProfileSink, session: Session):
    write_and_flush(sink, profile_row(recency_days=2.0))
    write_and_flush(sink, profile_row(window=1, recency_days=None))

    assert queries.profile(session, "u").recency_days is None


def test_sums_since_an_erasure_are_those_of_the_window_before(sink: CassandraProfileSink):
    sums = (1.0, 2.5e300, -0.0)
    rows = [
        profile_row("back", window=window, later_sums=(*sums, float(window))) for window in (2, 3)
    ]
    write_and_flush(sink, *rows, profile_row("never", window=2))
    ends_ms = [row.window_end_ms for row in rows]
    keys = [SumsKey("back", end_ms) for end_ms in (*ends_ms, ends_ms[-1] + 1)]
    assert sink.later_sums([*keys, SumsKey("never", ends_ms[-1])]) == [
        None,
        StoredSums(ends_ms[0], (*sums, 2.0)),
        StoredSums(ends_ms[1], (*sums, 3.0)),
        None,
    ]


def test_profile_is_the_latest_window_of_one_write(sink: CassandraProfileSink, session: Session):
    windows = [profile_row(window=window, churn=window / 10) for window in (2, 5, 3)]
    write_and_flush(sink, *windows, profile_row("other", window=1, churn=0.1))

    assert queries.profile(session, "u").churn == 0.5
    assert queries.profile(session, "other").churn == 0.1
    assert len(list(queries.deltas(session, "u"))) == 3


def test_writing_a_row_again_changes_nothing(sink: CassandraProfileSink, session: Session):
    row = profile_row(flags=[flag()], active_rules=["rule"], write_lookalike=True)
    write_and_flush(sink, row)
    before = [session.execute(f"SELECT * FROM {table}").all() for table in TABLES]
    write_and_flush(sink, row)

    assert [session.execute(f"SELECT * FROM {table}").all() for table in TABLES] == before
    assert all(len(found) == 1 for found in before)


def test_ttl_starts_at_the_time_of_writing(
    sink: CassandraProfileSink, session: Session, settings: CassandraSettings
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


def test_expired_rows_are_not_read(
    settings: CassandraSettings, session: Session, sink: CassandraProfileSink
):
    short = settings.model_copy(update={"profile_ttl_s": 1, "delta_ttl_s": 1})
    write_and_flush(CassandraProfileSink(short, DIM, session), profile_row())

    until(lambda: not (queries.profile(session, "u") or queries.deltas(session, "u")))


@pytest.mark.parametrize("kind", ["cassandra", "memory"])
def test_flag_history_before_each_window(kind: str, request: pytest.FixtureRequest):
    sink = MemoryProfileSink() if kind == "memory" else request.getfixturevalue("sink")
    write_and_flush(sink, profile_row(window=0, active_rules=["a"], flags=[flag("a")]))
    write_and_flush(sink, profile_row(window=1, active_rules=["a", "b"], flags=[flag("b")]))
    write_and_flush(sink, profile_row(window=2, active_rules=["b"]))
    write_and_flush(sink, profile_row("other", window=2, active_rules=["a"], flags=[flag("a")]))
    ends_ms = [profile_row(window=window).window_end_ms for window in range(4)]

    def history(rule_id: str, window: int) -> FlagHistory:
        (found,) = sink.flag_history([FlagQuery("u", rule_id, ends_ms[window])])
        return found

    def past(rule_id: str, window: int) -> tuple[bool, int | None]:
        found = history(rule_id, window)
        return found.was_true, found.last_raised_ms

    assert past("a", 0) == (False, None)
    assert past("a", 1) == (True, ends_ms[0])
    assert past("a", 3) == (False, ends_ms[0])
    assert past("b", 1) == (False, None)
    assert past("b", 2) == (True, ends_ms[1])
    assert past("b", 3) == (True, ends_ms[1])
    several = [FlagQuery("u", "b", ends_ms[3]), FlagQuery("nobody", "b", ends_ms[3])]
    assert sink.flag_history(several) == [history("b", 3), FlagHistory()]
    assert [history("a", window).is_raised for window in range(3)] == [True, False, False]
    assert history("b", 0).next_raised_ms == ends_ms[1]


def test_flag_history_includes_rows_not_yet_flushed(sink: CassandraProfileSink):
    sink.write([profile_row(window=n, flags=[flag()], active_rules=["rule"]) for n in range(3)])

    (past,) = sink.flag_history([FlagQuery("u", "rule", profile_row(window=3).window_end_ms)])
    last_ms = profile_row(window=2).window_end_ms
    assert past == FlagHistory(RowPosition(last_ms), True, last_ms)


def test_cached_flag_history_equals_that_of_the_tables(
    sink: CassandraProfileSink, settings: CassandraSettings, session: Session
):
    rng = random.Random(1)
    for window in range(12):
        query = [
            FlagQuery(user_id, rule_id, profile_row(window=window).window_end_ms)
            for user_id in "uvw"
            for rule_id in "ab"
            if rng.random() < 0.6
        ]
        fresh = CassandraProfileSink(settings, DIM, session)
        assert sink.flag_history(query) == fresh.flag_history(query)
        for user_id in "uvw":
            active = [rule_id for rule_id in "ab" if rng.random() < 0.5]
            flags = [flag(rule_id) for rule_id in active if rng.random() < 0.5]
            write_and_flush(sink, profile_row(user_id, window, active_rules=active, flags=flags))


def test_flags_are_read_by_user_and_over_all_users(sink: CassandraProfileSink, session: Session):
    days = 3
    for day in range(days):
        write_and_flush(
            sink,
            *(
                profile_row(f"u{n}", window=n + day * DAY_MS // (5 * MINUTE_MS), flags=[flag()])
                for n in range(20)
            ),
        )
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


def test_flag_of_event_is_stored_in_both_tables(sink: CassandraProfileSink, session: Session):
    reason = {"code": "FRAUD_SCORE", "value": 0.9, "usual": None, "sentence": "likely"}
    of_event = flag(event_id="e1", rule_version=3, rule_state="SHADOW", reasons=[reason])
    write_and_flush(sink, profile_row(flags=[of_event]))

    for table in ("risk_flag", "risk_flag_by_day"):
        [found] = session.execute(
            f"SELECT event_id, rule_version, rule_state, reasons FROM {table}"
        ).all()
        assert found[:3] == ("e1", 3, "SHADOW")
        assert json.loads(found[3]) == [reason]


def test_similar_users_are_found_with_and_without_segment(
    sink: CassandraProfileSink, session: Session
):
    directions = {"u": (1, 0), "near": (1, 0.1), "far": (1, 3), "opposite": (-1, 0)}
    write_and_flush(
        sink,
        *(
            profile_row(
                name,
                embedding=np.array([x, y, 0, 0], np.float32) / np.float32(np.hypot(x, y)),
                segments=["loyal"] if name == "far" else ["new"],
                write_lookalike=True,
            )
            for name, (x, y) in directions.items()
        ),
        profile_row("never written to the table"),
    )
    alike = queries.similar_users(session, "u", 3)
    assert [user.user_id for user in alike] == ["near", "far", "opposite"]
    assert alike[0].cosine > 0.99 and alike[2].cosine < 0.01
    assert [user.user_id for user in queries.similar_users(session, "u", 3, "loyal")] == ["far"]
    assert queries.similar_users(session, "nobody", 3) is None


def test_scan_of_digests_reads_every_delta_once(sink: CassandraProfileSink, session: Session):
    rows = [profile_row(f"u{n}", window) for n in range(300) for window in range(3)]
    write_and_flush(sink, *rows)

    found = list(queries.scan_digests(session))
    assert sorted(found) == sorted(
        queries.WindowDigests(r.user_id, r.window_start_ms, r.window_end_ms, r.events, r.digests)
        for r in rows
    )
    ends_ms = sorted({r.window_end_ms for r in rows})
    some = list(queries.scan_digests(session, (ends_ms[1], ends_ms[1])))
    assert sorted(some) == sorted(row for row in found if row.window_end_ms == ends_ms[1])


def test_queries_of_the_documentation_run(sink: CassandraProfileSink, session: Session):
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


def test_row_larger_than_a_batch_is_written(settings: CassandraSettings, session: Session):
    sink = CassandraProfileSink(settings, DIM, session)
    large = b'{"x":"' + b"y" * 200_000 + b'"}'
    write_and_flush(sink, *(profile_row(f"large{n}", delta=large) for n in range(3)))

    assert all(len(queries.deltas(session, f"large{n}")[0].delta["x"]) == 200_000 for n in range(3))
