"""What the store does before anything reaches Cassandra: bytes, batches, groups and retries."""

from __future__ import annotations

import itertools
import struct
import threading
from collections import Counter
from collections.abc import Iterable
from types import SimpleNamespace

import numpy as np
import pytest
from cassandra import InvalidRequest, OperationTimedOut, Unauthorized, WriteTimeout, WriteType
from cassandra.cluster import NoHostAvailable
from cassandra.cqltypes import lookup_casstype
from cassandra.metadata import Murmur3Token
from cassandra.protocol import OverloadedErrorMessage
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.config import CassandraSettings
from liveprofile.errors import StoreError
from liveprofile.rules.flags import Flag, FlagHistory, FlagQuery
from liveprofile.storage.schema import schema_statements
from tests.support.memory_sinks import MemoryProfileSink
from udfs.cassandra import encoding, flag_state_cache
from udfs.cassandra.batches import BatchLimits, ReplicaSets, pack, parse_size, server_limits
from udfs.cassandra.flag_state_cache import FlagState, FlagStateCache
from udfs.cassandra.requests import MAX_DELAY_S, Requests, delay_s, passing
from udfs.null_sink import NullSink
from udfs.profile import row_encoding
from udfs.profile.profile_row import ProfileRow

TIMED_OUT = OperationTimedOut({"node": "time-out"})


def row(user_id: str, window_end_ms: int = 300_000, **changes: object) -> ProfileRow:
    return ProfileRow(
        user_id=user_id, window_start_ms=window_end_ms - 300_000, window_end_ms=window_end_ms,
        model_version="m", feature_version=1, revision=3, churn=0.5, expected_spend=1.5,
        surprise=2.5, recency_days=None, purchases_decayed=0.5, amount_decayed=0.25,
        segments=["b", "a"], profile_json=b"{}", embedding=np.array([1.5, -2.0], np.float32),
        events=2, amount=9.75, embedding_distance=0.1, active_rules=[], delta_json=b"{}",
        digests=b"12345678", events_total=9, write_lookalike=False, flags=[],
    )._replace(**changes)  # fmt: skip


WIRE_TYPES = {
    "user_id": "UTF8Type", "model_version": "UTF8Type", "profile": "UTF8Type",
    "delta": "UTF8Type", "window_end": "LongType", "window_start": "LongType",
    "write_time": "LongType", "events_total": "LongType", "feature_version": "Int32Type",
    "events": "Int32Type", "digests": "BytesType",
    "segments": "SetType(UTF8Type)", "active_rules": "SetType(UTF8Type)",
}  # fmt: skip


def decode(columns: tuple[str, ...], values: list[bytes | None]) -> dict[str, object]:
    """The driver's own reading of the bytes."""
    found = {}
    for column, value in zip((*columns, "write_time"), values, strict=True):
        if column == "embedding":
            found[column] = list(struct.unpack(f">{len(value) // 4}f", value))
        else:
            kind = lookup_casstype(WIRE_TYPES.get(column, "DoubleType"))
            found[column] = kind.from_binary(value, 5)
    return found


@given(
    st.lists(
        st.tuples(
            st.text(min_size=1).filter(lambda text: text.isprintable()),
            st.integers(-(10**12), 4 * 10**12),
            st.floats(allow_nan=False),
            st.none() | st.floats(allow_nan=False),
            st.lists(st.text(max_size=5).filter(str.isprintable), max_size=4),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_the_driver_reads_back_what_was_encoded(cases):
    rows = [
        row(user, end_ms, churn=churn, recency_days=recency, segments=segments)
        for user, end_ms, churn, recency, segments in cases
    ]
    encoded = row_encoding.rows(rows, 2)
    for one, key, profile, delta in zip(
        rows, encoded.keys, encoded.profiles, encoded.deltas, strict=True
    ):
        assert key == one.user_id.encode()
        found = decode(row_encoding.PROFILE_COLUMNS, profile)
        assert set(found.pop("segments")) == set(one.segments)
        assert found == {
            "user_id": one.user_id, "window_end": one.window_end_ms,
            "window_start": one.window_start_ms, "model_version": "m", "feature_version": 1,
            "churn": one.churn, "expected_spend": 1.5, "recency_days": one.recency_days,
            "purchases_decayed": 0.5, "amount_decayed": 0.25, "events_total": 9, "profile": "{}",
            "embedding": [1.5, -2.0], "write_time": one.window_end_ms * 1_000 + 3,
        }  # fmt: skip
        found = decode(row_encoding.DELTA_COLUMNS, delta)
        assert (found["events"], found["amount"], found["surprise"]) == (2, 9.75, 2.5)
        assert (found["digests"], found["delta"]) == (b"12345678", "{}")
        assert found["write_time"] == one.window_end_ms * 1_000 + 3


def test_an_embedding_of_another_size_is_named():
    with pytest.raises(ValueError, match=r"shape \(2,\), the store expects \(32,\)"):
        row_encoding.rows([row("u")], 32)


@given(st.lists(st.integers(1, 300)), st.integers(1, 400), st.integers(1, 9))
def test_batches_hold_every_row_once_within_the_limits(sizes, limit_bytes, limit_partitions):
    batches = list(pack(sizes, BatchLimits(limit_bytes, limit_partitions)))

    assert [position for batch in batches for position in batch] == list(range(len(sizes)))
    for batch in batches:
        assert 1 <= len(batch) <= limit_partitions
        assert len(batch) == 1 or sum(sizes[position] for position in batch) <= limit_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5KiB", 5_120), ("64 KiB", 65_536), ("1MiB", 1 << 20), ("10", 10), (None, 7), ("null", 7)],
)
def test_sizes_of_the_server(text, expected):
    assert parse_size(text, 7) == expected


def test_the_servers_limits_win_over_the_settings():
    def session(answer):
        def execute(query):
            if isinstance(answer, Exception):
                raise answer
            return [SimpleNamespace(name=name, value=value) for name, value in answer.items()]

        return SimpleNamespace(execute=execute)

    tuned = {
        "batch_size_warn_threshold": "64KiB",
        "unlogged_batch_across_partitions_warn_threshold": "200",
    }
    assert server_limits(session(tuned), 20_000) == BatchLimits(20_000, 200)
    assert server_limits(session({"batch_size_warn_threshold": "5KiB"}), 20_000) == (5_120, 10)
    assert server_limits(session(Unauthorized("no")), 20_000) == (5_120, 10)
    assert server_limits(session(InvalidRequest("no such table")), 4_096) == (4_096, 10)


def metadata(tokens: dict[int, set[str]]) -> SimpleNamespace:
    """Of a cluster: the replicas of each range by the token that ends it."""
    ring = sorted(map(Murmur3Token, tokens))
    token_map = SimpleNamespace(
        token_class=Murmur3Token,
        ring=ring,
        get_replicas=lambda keyspace, token: [
            SimpleNamespace(host_id=host) for host in sorted(tokens[token.value])
        ],
    )
    return SimpleNamespace(token_map=token_map)


def test_rows_are_grouped_by_the_nodes_that_hold_them():
    quarter = 1 << 62
    tokens = {-quarter: {"a", "b"}, 0: {"b", "c"}, quarter: {"a", "b"}}
    keys = [str(n).encode() for n in range(500)]

    def replicas(key: bytes) -> set[str]:
        token = Murmur3Token.hash_fn(key)
        return tokens[next((end for end in sorted(tokens) if token <= end), min(tokens))]

    sets = ReplicaSets(metadata(tokens), "ks")
    groups = sets.group(keys)
    assert sorted(position for group in groups for position in group) == list(range(500))
    assert len(groups) == 2
    for group in groups:
        assert len({frozenset(replicas(keys[position])) for position in group}) == 1


def test_one_replica_set_is_one_group_and_a_changed_ring_is_noticed():
    known = metadata({-5: {"a"}, 5: {"a"}})
    sets = ReplicaSets(known, "ks")
    assert sets.group([b"1", b"2"]) == [range(2)]
    known.token_map = metadata({-(1 << 62): {"a"}, 1 << 62: {"b"}}).token_map
    assert len(sets.group([str(n).encode() for n in range(50)])) == 2
    known.token_map = None
    assert sets.group([b"1", b"2"]) == [range(2)]


class FakeSession:
    """Answers from another thread: statement s with each of errors[s], then with success."""

    def __init__(self, errors: dict[str, Iterable[Exception]] | None = None):
        self.errors = {statement: iter(each) for statement, each in (errors or {}).items()}
        self.sent: Counter[str] = Counter()
        self.open = self.most_open = 0
        self._lock = threading.Lock()

    def execution_profile_clone_update(self, name: object, **changes: object) -> None:
        """No rows come back, so how they would be made is all the same."""

    def execute_async(self, statement: str, execution_profile: None) -> FakeSession.Future:
        with self._lock:
            self.sent[statement] += 1
            self.open += 1
            self.most_open = max(self.most_open, self.open)
        return self.Future(self, statement)

    class Future:
        def __init__(self, session: FakeSession, statement: str):
            self._session, self._statement = session, statement

        def add_callbacks(self, callback, errback) -> None:
            timer = threading.Timer(0.002, self._answer, (callback, errback))
            timer.start()

        def _answer(self, callback, errback) -> None:
            with self._session._lock:
                self._session.open -= 1
            error = next(self._session.errors.get(self._statement, iter(())), None)
            if error is None:
                callback([self._statement])
            else:
                errback(error)


def requests(session: FakeSession, **changes: int) -> Requests:
    return Requests(session, CassandraSettings(**({"in_flight": 4} | changes)), "write")


def test_no_more_than_in_flight_are_open_and_all_succeed():
    session, rows = FakeSession(), []
    sender = requests(session)
    for n in range(40):
        sender.submit(f"s{n}", rows.extend)
    sender.drain()

    assert session.most_open <= 4
    assert sorted(rows) == sorted(f"s{n}" for n in range(40))


def test_what_passes_is_sent_again_until_it_succeeds():
    errors = [TIMED_OUT, NoHostAvailable("down", {}), OverloadedErrorMessage(0, "", None)]
    session = FakeSession({"bad": errors})
    sender = requests(session)
    for statement in ("good1", "bad", "good2"):
        sender.submit(statement)
    sender.drain()

    assert session.sent == {"good1": 1, "bad": 4, "good2": 1}
    assert sender.retried == 3


def test_what_keeps_failing_is_given_up_and_never_forgotten():
    sender = requests(FakeSession({"bad": itertools.repeat(TIMED_OUT)}), retry_timeout_ms=200)
    sender.submit("bad")
    with pytest.raises(
        StoreError, match=r"write kept failing for 0\.\d s .*give_up_after_ms = 200"
    ):
        sender.drain()
    for call in (sender.drain, lambda: sender.submit("good")):
        with pytest.raises(StoreError, match="kept failing"):
            call()


def test_what_can_never_succeed_raises_at_once():
    session = FakeSession({"bad": [InvalidRequest("no such table")]})
    sender = requests(session)
    sender.submit("bad")
    with pytest.raises(StoreError, match="write refused: InvalidRequest: no such table"):
        sender.drain()
    assert session.sent["bad"] == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TIMED_OUT, True),
        (WriteTimeout("slow", write_type=WriteType.UNLOGGED_BATCH), True),
        (NoHostAvailable("none", {}), True),
        (NoHostAvailable("none", {"a": InvalidRequest("x"), "b": TIMED_OUT}), True),
        (NoHostAvailable("none", {"a": InvalidRequest("x")}), False),
        (Unauthorized("x"), False),
        (ValueError("x"), False),
    ],
)
def test_which_errors_pass(error, expected):
    assert passing(error) is expected


def test_delays_grow_to_a_limit():
    longest = [delay_s(attempts, 1.0) for attempts in range(1, 100)]
    assert longest == sorted(longest) and longest[-1] == MAX_DELAY_S
    assert delay_s(1, 0.0) == pytest.approx(longest[0] / 2)


def test_the_schema_is_filled_in():
    statements = schema_statements(
        CassandraSettings(keyspace="shop", replication=3, local_dc="eu"), 7
    )
    assert statements[0] == (
        "CREATE KEYSPACE IF NOT EXISTS shop"
        " WITH replication = {'class': 'NetworkTopologyStrategy', 'eu': 3}"
    )
    assert all(text.startswith(("CREATE ", "ALTER TABLE ")) for text in statements)
    assert not any("{" in text.partition("WITH")[0] for text in statements)
    assert sum("vector<float, 7>" in text for text in statements) == 2


def test_the_stores_columns_are_the_schemas():
    statements = schema_statements(CassandraSettings(), 2)
    for table, columns in (
        ("user_profile", row_encoding.PROFILE_COLUMNS),
        ("profile_delta", row_encoding.DELTA_COLUMNS),
        ("user_lookalike", row_encoding.LOOKALIKE_COLUMNS),
        ("risk_flag", encoding.FLAG_COLUMNS),
        ("risk_flag_by_day", encoding.FLAG_BY_DAY_COLUMNS),
    ):
        (create,) = (text for text in statements if f"liveprofile.{table} (\n" in text)
        body = create.split("(\n", 1)[1].split("\n)", 1)[0]
        named = {line.split()[0] for line in body.splitlines() if line.strip()}
        assert named - {"PRIMARY"} == set(columns), table


def test_memory_keeps_the_later_window_and_the_newer_model():
    store = MemoryProfileSink()
    store.begin([row("u", 600_000, churn=0.6)])
    store.begin([row("u", 300_000, churn=0.3), row("u", 600_000, revision=2, churn=0.2)])
    store.wait()
    assert store.profiles["u"].churn == 0.6
    assert {key: kept.churn for key, kept in store.deltas.items()} == {
        ("u", 600_000): 0.6,
        ("u", 300_000): 0.3,
    }


def test_pasts_know_what_was_written_since_they_learnt():
    pasts = FlagStateCache()
    flag = Flag("id", "a", "REASON", "low", "none", 1.0, 0.5, "why", {}, "v1")
    flagged = row("u", 600_000, active_rules=["a"], flags=[flag])
    pasts.write([flagged])
    assert pasts.before("u", 900_000) == FlagState(600_000, frozenset("a"), None)
    assert pasts.before("u", 600_000) is None  # a replay asks the store
    assert pasts.before("other", 900_000) is None

    pasts = FlagStateCache()
    pasts.learn("u", FlagState(599_999, frozenset(), {"a": 1, "b": 2}))
    pasts.write([flagged, row("u", 900_000, active_rules=[])])
    newest = FlagState(900_000, frozenset(), {"a": 600_000, "b": 2})
    assert pasts.before("u", 1_200_000) == newest
    pasts.learn("u", FlagState(599_999, frozenset("a"), {}))
    assert pasts.before("u", 1_200_000) == newest
    pasts.write([flagged])
    assert pasts.before("u", 1_200_000) is None


def test_pasts_are_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(flag_state_cache, "MOST_USERS", 2)
    pasts = FlagStateCache()
    pasts.write([row(user, 600_000) for user in "abc"])
    assert [pasts.before(user, 900_000) is None for user in "abc"] == [True, True, False]


def test_no_store_remembers_nothing():
    store = NullSink()
    store.begin([row("u", active_rules=["rule"])])
    store.wait()
    assert store.flag_history([FlagQuery("u", "rule", 600_000)]) == [FlagHistory(False, None)]
