"""The Cassandra store and its readers against a real node."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cassandra import ConsistencyLevel
from cassandra.cluster import Session

from liveprofile import reads
from liveprofile.cassandra import connect, create_schema, session_of
from liveprofile.config import Cassandra
from liveprofile.errors import ConfigError, ServiceError, StoreError
from udfs.store import (
    CassandraStore,
    Flag,
    FlagPast,
    FlagQuery,
    MemoryStore,
    ProfileRow,
    ProfileStore,
    write_time_us,
)

pytestmark = pytest.mark.services

DIM = 4
MINUTE_MS = 60_000
DAY_MS = 86_400_000
START_MS = 1_511_658_000_000  # 2017-11-26 01:00:00 UTC


def row(user_id: str = "u", window: int = 0, **changes: object) -> ProfileRow:
    """One window's row; `changes` overrides fields."""
    end_ms = START_MS + (window + 1) * 5 * MINUTE_MS
    direction = np.array([1, window, 0, 0], np.float32)
    return ProfileRow(
        user_id=user_id,
        window_start_ms=end_ms - 5 * MINUTE_MS,
        window_end_ms=end_ms,
        model_version="test-1",
        feature_version=1,
        revision=1,
        churn=0.25,
        expected_spend=12.5,
        surprise=3.5,
        recency_days=None,
        purchases_decayed=1.5,
        amount_decayed=20.25,
        segments=["new", "loyal"],
        profile_json=b'{"interests":{"caf\xc3\xa9":0.5}}',
        embedding=direction / np.linalg.norm(direction),
        events=2,
        amount=20.25,
        embedding_distance=0.125,
        active_rules=[],
        delta_json=b'{"before":{"churn":0.5},"after":{"churn":0.25}}',
        digests=bytes(range(16)),
        events_total=7,
        write_lookalike=False,
        flags=[],
    )._replace(**changes)


def flag(rule_id: str = "rule", **changes: object) -> Flag:
    return Flag(
        flag_id="0" * 32,
        rule_id=rule_id,
        reason="UNUSUAL_BEHAVIOUR",
        severity="high",
        action="step_up_verification",
        value=13.5,
        threshold=12.0,
        message="unlike the user",
        evidence={"events": 2},
        rules_version="v1",
    )._replace(**changes)


@pytest.fixture(scope="module")
def settings(cassandra_settings: Cassandra) -> Iterator[Cassandra]:
    """A keyspace of this file's own."""
    own = cassandra_settings.model_copy(update={"keyspace": "store_test"})
    create_schema(own, DIM)
    yield own
    session = connect(own)
    session.execute("DROP KEYSPACE store_test", timeout=60)
    session.cluster.shutdown()


@pytest.fixture(scope="module")
def session(settings: Cassandra) -> Iterator[Session]:
    with session_of(settings) as session:
        yield session


@pytest.fixture
def store(settings: Cassandra, session: Session) -> Iterator[CassandraStore]:
    for table in ("user_profile", "profile_delta", "risk_flag", "risk_flag_by_day"):
        session.execute(f"TRUNCATE {table}", timeout=60)
    session.execute("TRUNCATE user_lookalike", timeout=60)
    yield CassandraStore(settings, DIM, session)


def write(store: ProfileStore, *rows: ProfileRow) -> None:
    store.begin(rows)
    store.wait()


def test_every_field_comes_back_as_it_was_written(store: CassandraStore, session: Session):
    written = row(user_id="ü \U0001f600", recency_days=1.5, active_rules=["b", "a"])
    write(store, written)

    profile = reads.profile(session, written.user_id)
    assert profile == reads.Profile(
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
    assert reads.deltas(session, written.user_id) == [
        reads.Delta(
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


def test_no_purchase_reads_as_none(store: CassandraStore, session: Session):
    write(store, row(recency_days=2.0))
    write(store, row(window=1, recency_days=None))

    assert reads.profile(session, "u").recency_days is None


def test_the_later_window_wins_whatever_arrives_last(store: CassandraStore, session: Session):
    write(store, row(window=5, churn=0.5, segments=["lapsing"], recency_days=3.0))
    write(store, row(window=2, churn=0.2))

    profile = reads.profile(session, "u")
    assert (profile.churn, profile.segments, profile.recency_days) == (0.5, ["lapsing"], 3.0)
    windows = [delta.window_end_ms for delta in reads.deltas(session, "u")]
    assert windows == [row(window=5).window_end_ms, row(window=2).window_end_ms]


def test_the_same_row_twice_changes_nothing(store: CassandraStore, session: Session):
    twice = row(flags=[flag()], active_rules=["rule"], write_lookalike=True)
    write(store, twice)
    tables = ("user_profile", "profile_delta", "risk_flag", "risk_flag_by_day", "user_lookalike")
    before = [session.execute(f"SELECT * FROM {table}").all() for table in tables]
    write(store, twice)

    assert [session.execute(f"SELECT * FROM {table}").all() for table in tables] == before
    assert all(len(found) == 1 for found in before)


def test_of_one_window_the_newer_model_wins(store: CassandraStore, session: Session):
    write(store, row(revision=2, churn=0.75, recency_days=1.0))
    write(store, row(revision=1, churn=0.25))

    assert reads.profile(session, "u").churn == 0.75
    assert reads.profile(session, "u").recency_days == 1.0


def test_write_time_is_event_time_and_expiry_counts_from_now(
    store: CassandraStore, session: Session, settings: Cassandra
):
    written = row(write_lookalike=True, flags=[flag()])
    write(store, written)

    for table, column, ttl_s in (
        ("user_profile", "churn", settings.profile_ttl_s),
        ("profile_delta", "events", settings.delta_ttl_s),
        ("risk_flag", "reason", settings.flag_ttl_s),
        ("risk_flag_by_day", "reason", settings.flag_ttl_s),
        ("user_lookalike", "embedding", settings.profile_ttl_s),
    ):
        query = f"SELECT WRITETIME({column}) AS time, TTL({column}) AS ttl FROM {table}"
        found = session.execute(query).one()
        assert found.time == written.window_end_ms * 1_000 + 1 == write_time_us(written)
        assert ttl_s - 60 <= found.ttl <= ttl_s


def test_expired_rows_are_gone(settings: Cassandra, session: Session, store: CassandraStore):
    short = settings.model_copy(update={"profile_ttl_s": 1, "delta_ttl_s": 1})
    write(CassandraStore(short, DIM, session), row())

    deadline_s = time.monotonic() + 10
    while reads.profile(session, "u") or reads.deltas(session, "u"):
        assert time.monotonic() < deadline_s
        time.sleep(0.2)


@pytest.mark.parametrize("kind", ["cassandra", "memory"])
def test_flag_past(kind: str, request: pytest.FixtureRequest):
    store = MemoryStore() if kind == "memory" else request.getfixturevalue("store")
    write(store, row(window=0, active_rules=["a"], flags=[flag("a")]))
    write(store, row(window=1, active_rules=["a", "b"], flags=[flag("b")]))
    write(store, row(window=2, active_rules=["b"]))
    write(store, row("other", window=2, active_rules=["a"], flags=[flag("a")]))
    ends_ms = [row(window=window).window_end_ms for window in range(4)]

    def past(rule_id: str, window: int) -> FlagPast:
        (found,) = store.flag_past([FlagQuery("u", rule_id, ends_ms[window])])
        return found

    assert past("a", 0) == FlagPast(was_true=False, last_raised_ms=None)
    assert past("a", 1) == FlagPast(was_true=True, last_raised_ms=ends_ms[0])
    assert past("a", 3) == FlagPast(was_true=False, last_raised_ms=ends_ms[0])
    assert past("b", 1) == FlagPast(was_true=False, last_raised_ms=None)
    assert past("b", 2) == FlagPast(was_true=True, last_raised_ms=ends_ms[1])
    assert past("b", 3) == FlagPast(was_true=True, last_raised_ms=ends_ms[1])
    several = [FlagQuery("u", "b", ends_ms[3]), FlagQuery("nobody", "b", ends_ms[3])]
    assert store.flag_past(several) == [past("b", 3), FlagPast(False, None)]


def test_flag_past_sees_the_newest_flag_and_what_was_only_begun(store: CassandraStore):
    store.begin([row(window=n, flags=[flag()], active_rules=["rule"]) for n in range(3)])

    (past,) = store.flag_past([FlagQuery("u", "rule", row(window=3).window_end_ms)])
    assert past == FlagPast(was_true=True, last_raised_ms=row(window=2).window_end_ms)


def test_flag_past_is_the_same_from_memory_as_from_the_tables(
    store: CassandraStore, settings: Cassandra, session: Session
):
    rng = random.Random(1)
    for window in range(12):
        query = [
            FlagQuery(user_id, rule_id, row(window=window).window_end_ms)
            for user_id in "uvw"
            for rule_id in "ab"
            if rng.random() < 0.6
        ]
        fresh = CassandraStore(settings, DIM, session)
        assert store.flag_past(query) == fresh.flag_past(query)
        for user_id in "uvw":
            active = [rule_id for rule_id in "ab" if rng.random() < 0.5]
            flags = [flag(rule_id) for rule_id in active if rng.random() < 0.5]
            write(store, row(user_id, window, active_rules=active, flags=flags))


def test_flags_are_read_by_user_and_over_all(store: CassandraStore, session: Session):
    days = 3
    for day in range(days):
        write(
            store,
            *(
                row(f"u{n}", window=n + day * DAY_MS // (5 * MINUTE_MS), flags=[flag()])
                for n in range(20)
            ),
        )
    everything = reads.flags(session, limit=1_000)
    ends_ms = [found.window_end_ms for found in everything]
    assert len(everything) == 60 and ends_ms == sorted(ends_ms, reverse=True)
    assert everything[0].evidence == {"events": 2}
    assert reads.flags(session, limit=25) == everything[:25]
    since_ms = everything[30].window_end_ms
    assert reads.flags(session, since_ms=since_ms, limit=1_000) == everything[:31]
    of_user = [found for found in everything if found.user_id == "u7"]
    assert reads.flags(session, "u7") == of_user
    assert reads.flags(session, "u7", since_ms=of_user[1].window_end_ms) == of_user[:2]
    assert reads.flags(session, "nobody") == []


def test_similar_users_within_a_segment_too(store: CassandraStore, session: Session):
    directions = {"u": (1, 0), "near": (1, 0.1), "far": (1, 3), "opposite": (-1, 0)}
    write(
        store,
        *(
            row(
                name,
                embedding=np.array([x, y, 0, 0], np.float32) / np.float32(np.hypot(x, y)),
                segments=["loyal"] if name == "far" else ["new"],
                write_lookalike=True,
            )
            for name, (x, y) in directions.items()
        ),
        row("never written to the table"),
    )
    alike = reads.similar_users(session, "u", 3)
    assert [user.user_id for user in alike] == ["near", "far", "opposite"]
    assert alike[0].cosine > 0.99 and alike[2].cosine < 0.01
    assert [user.user_id for user in reads.similar_users(session, "u", 3, "loyal")] == ["far"]
    assert reads.similar_users(session, "nobody", 3) == []


def test_all_deltas_are_read_once(store: CassandraStore, session: Session):
    rows = [row(f"u{n}", window) for n in range(300) for window in range(3)]
    write(store, *rows)

    found = list(reads.all_deltas(session))
    assert sorted(found) == sorted(
        reads.UsedEvents(r.user_id, r.window_start_ms, r.window_end_ms, r.events, r.digests)
        for r in rows
    )


def test_the_queries_of_the_documentation_run(store: CassandraStore, session: Session):
    text = (Path(__file__).parents[2] / "docs" / "reading.md").read_text(encoding="utf-8")
    statements = [
        statement.replace("[0.1, ...]", "[1, 0, 0, 0]")
        for block in re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
        for statement in block.split(";")
        if statement.strip()
    ]
    assert len(statements) >= 8
    write(store, row("42", segments=["loyal"], write_lookalike=True))
    for statement in statements:
        prepared = session.prepare(statement)
        prepared.consistency_level = ConsistencyLevel.LOCAL_ONE
        session.execute(prepared, [0] * len(prepared.column_metadata))


def test_a_row_larger_than_a_batch_goes_alone(settings: Cassandra, session: Session):
    store = CassandraStore(settings.model_copy(update={"batch_bytes": 256}), DIM, session)
    large = b'{"x":"' + b"y" * 200_000 + b'"}'
    write(store, *(row(f"large{n}", delta_json=large) for n in range(3)))

    assert all(len(reads.deltas(session, f"large{n}")[0].delta["x"]) == 200_000 for n in range(3))


def test_a_write_that_is_refused_raises_at_once_and_for_good(settings: Cassandra):
    own = settings.model_copy(update={"keyspace": "store_refused", "give_up_after_ms": 60_000})
    create_schema(own, DIM)
    with session_of(own) as session:
        store = CassandraStore(own, DIM, session)
        session.execute("DROP TABLE profile_delta", timeout=60)
        started_s = time.monotonic()
        try:
            with pytest.raises(StoreError, match=r"refused: InvalidRequest.*profile_delta"):
                write(store, row())
            assert time.monotonic() - started_s < 30
            with pytest.raises(StoreError, match="refused"):
                store.wait()
            with pytest.raises(StoreError, match="refused"):
                store.begin([row("another")])
        finally:
            session.execute("DROP KEYSPACE store_refused", timeout=60)


class Relay:
    """A port in front of Cassandra that can hang, as a stopped node does, or refuse."""

    def __init__(self, node: tuple[str, int]):
        self._node = node
        self._open = threading.Event()
        self._open.set()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._start(self._accept, self._listener)

    @staticmethod
    def _start(target: Callable[..., None], *args: object) -> None:
        threading.Thread(target=target, args=args, daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(self._node)
                self._sockets += [client, server]
                self._start(self._copy, client, server)
                self._start(self._copy, server, client)

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):  # either end closed
            while data := source.recv(65_536):
                self._open.wait()
                target.sendall(data)
        target.close()

    def hang(self) -> None:
        self._open.clear()

    def go_on(self) -> None:
        self._open.set()

    def refuse(self) -> None:
        # A blocked accept() keeps a listener alive unless it is shut down too.
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):  # not connected any more
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._sockets.clear()

    def listen_again(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._start(self._accept, self._listener)


@pytest.fixture
def relay(settings: Cassandra) -> Iterator[Relay]:
    relay = Relay((settings.contact_points[0], settings.port))
    yield relay
    relay.go_on()
    relay.refuse()


def relayed(settings: Cassandra, relay: Relay, **changes: object) -> Cassandra:
    return settings.model_copy(
        update={"contact_points": ("127.0.0.1",), "port": relay.port, "request_timeout_ms": 1_000}
        | changes
    )


def later(seconds: float, action: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


def write_slowly(store: ProfileStore, user_prefix: str, batches: int) -> set[str]:
    """Begins and waits ten rows at a time; the users whose rows are acknowledged."""
    written = set()
    for batch in range(batches):
        rows = [row(f"{user_prefix}{batch}-{n}") for n in range(10)]
        write(store, *rows)
        written |= {one.user_id for one in rows}
        time.sleep(0.05)
    return written


@pytest.mark.parametrize(
    ("fault", "repair", "seconds"), [("hang", "go_on", 10), ("refuse", "listen_again", 5)]
)
def test_nothing_is_lost_while_the_node_is_away(
    fault: str, repair: str, seconds: float, settings: Cassandra, session: Session, relay: Relay
):
    store = CassandraStore(relayed(settings, relay), DIM)
    started_s = time.monotonic()
    timers = [later(0.5, getattr(relay, fault)), later(0.5 + seconds, getattr(relay, repair))]
    written = write_slowly(store, fault, 40)

    assert time.monotonic() - started_s > seconds, "the fault came too late"
    assert all(reads.profile(session, user_id) for user_id in written)
    store.close()
    for timer in timers:
        timer.join()


@pytest.mark.parametrize("fault", ["hang", "refuse"])
def test_a_node_away_for_too_long_raises(fault: str, settings: Cassandra, relay: Relay):
    store = CassandraStore(relayed(settings, relay, give_up_after_ms=2_000), DIM)
    getattr(relay, fault)()
    started_s = time.monotonic()
    with pytest.raises(StoreError, match=r"write kept failing for \d+\.\d s .*= 2000\): "):
        write(store, row())
    assert time.monotonic() - started_s < 8
    relay.go_on()
    store.close()


def test_nobody_answers(settings: Cassandra):
    with pytest.raises(ServiceError, match=r"Cassandra at 127\.0\.0\.1:1 .*refused"):
        CassandraStore(settings.model_copy(update={"port": 1}), DIM)


def test_no_keyspace(settings: Cassandra):
    with pytest.raises(ServiceError, match="no keyspace absent: `liveprofile submit` creates it"):
        CassandraStore(settings.model_copy(update={"keyspace": "absent"}), DIM)


def test_tables_for_another_size_of_embedding_are_named(settings: Cassandra, session: Session):
    for attempt in (
        lambda: CassandraStore(settings, DIM + 1, session),
        lambda: create_schema(settings, DIM + 1),
    ):
        with pytest.raises(ConfigError, match=r"vector<float, 4> .* vector<float, 5>"):
            attempt()
    store = CassandraStore(settings, DIM, session)
    with pytest.raises(ValueError, match=r"shape \(5,\), the store expects \(4,\)"):
        store.begin([row(embedding=np.zeros(DIM + 1, np.float32))])
