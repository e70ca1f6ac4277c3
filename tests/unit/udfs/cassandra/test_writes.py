"""Writes: concurrency, retries and errors of statements; limits, nodes and packing of batches."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable
from types import SimpleNamespace

import pytest
from cassandra import InvalidRequest, OperationTimedOut, Unauthorized, WriteTimeout, WriteType
from cassandra.cluster import NoHostAvailable
from cassandra.protocol import OverloadedErrorMessage
from cassandra.query import SimpleStatement
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.errors import StoreError
from liveprofile.settings import CassandraSettings
from tests.support.rows.scored_events import START_MS
from udfs.cassandra import executor as executor_module
from udfs.cassandra.batch_writer import BatchLimits, Partition, by_nodes, pack, server_limits
from udfs.cassandra.encoding import bigint, partition_key
from udfs.cassandra.executor import StatementExecutor, is_retryable

TIMED_OUT = OperationTimedOut({"node": "time-out"})


class FakeSession:
    """Answers a statement from another thread: each of its `errors` in turn, then success."""

    def __init__(self, errors: dict[str, Iterable[Exception]] | None = None):
        self.errors = {statement: iter(each) for statement, each in (errors or {}).items()}
        self.sent: Counter[str] = Counter()
        self.open = self.most_open = 0
        self._lock = threading.Lock()

    def execution_profile_clone_update(self, name: object, **changes: object) -> None:
        """Returns no profile: the fake makes its rows itself."""

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


def executor_of(session: FakeSession, **changes: int) -> StatementExecutor:
    return StatementExecutor(session, CassandraSettings(**changes), "write")


def test_all_statements_succeed_with_a_bounded_number_under_way(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(executor_module, "MAX_IN_FLIGHT", 4)
    session, rows = FakeSession(), []
    executor = executor_of(session)
    for n in range(40):
        executor.submit(f"s{n}", rows.extend)
    executor.drain()

    assert session.most_open <= 4
    assert sorted(rows) == sorted(f"s{n}" for n in range(40))


def test_retryable_errors_are_retried_until_success():
    errors = [TIMED_OUT, NoHostAvailable("down", {}), OverloadedErrorMessage(0, "", None)]
    session = FakeSession({"bad": errors})
    executor = executor_of(session)
    for statement in ("good1", "bad", "good2"):
        executor.submit(statement)
    executor.drain()

    assert session.sent == {"good1": 1, "bad": 4, "good2": 1}
    assert executor.retried == 3


def test_statement_that_keeps_failing_raises_after_the_retry_timeout_and_on_every_later_call():
    session = FakeSession({"bad": itertools.repeat(TIMED_OUT)})
    executor = executor_of(session, retry_timeout_ms=200)
    start_s = time.monotonic()
    executor.submit("bad")
    with pytest.raises(StoreError) as raised:
        executor.drain()
    elapsed_s = time.monotonic() - start_s

    match = re.match(
        r"Cassandra write kept failing for (\d+\.\d) s in (\d+) attempts"
        r" \(cassandra\.retry_timeout_ms = 200\): ",
        str(raised.value),
    )
    assert match
    # The upper bound is measured: on a busy machine the pauses between attempts take longer.
    assert 0.2 <= float(match[1]) <= elapsed_s + 0.05
    assert int(match[2]) == session.sent["bad"] > 1
    for call in (executor.drain, lambda: executor.submit("good")):
        with pytest.raises(StoreError, match="kept failing"):
            call()
    assert session.sent["good"] == 0


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
def test_is_retryable(error, expected):
    assert is_retryable(error) is expected


@given(st.lists(st.integers(1, 300)), st.integers(1, 400), st.integers(1, 9))
def test_pack_puts_every_position_in_one_batch_within_the_limits(
    sizes, limit_bytes, limit_partitions
):
    batches = list(pack(sizes, BatchLimits(limit_bytes, limit_partitions)))

    assert [position for batch in batches for position in batch] == list(range(len(sizes)))
    for batch in batches:
        assert 1 <= len(batch) <= limit_partitions
        assert len(batch) == 1 or sum(sizes[position] for position in batch) <= limit_bytes


TUNED = {
    "batch_size_warn_threshold": "64KiB",
    "unlogged_batch_across_partitions_warn_threshold": "200",
}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (TUNED, (40_000, 200)),
        ({"batch_size_warn_threshold": "5KiB"}, (5_120, 10)),
        ({"batch_size_warn_threshold": "1MiB"}, (40_000, 10)),
        ({"batch_size_warn_threshold": None}, (5_120, 10)),
        (Unauthorized("no"), (5_120, 10)),
        (InvalidRequest("no such table"), (5_120, 10)),
    ],
    ids=["ours lower", "server lower", "larger unit", "off", "hidden", "without the table"],
)
def test_server_limits_are_the_lower_of_settings_and_server(answer, expected):
    def execute(query):
        if isinstance(answer, Exception):
            raise answer
        return answer.items()

    assert server_limits(SimpleNamespace(execute=execute)) == expected


def test_batch_has_partitions_of_the_same_nodes_only():
    nodes = {b"1": ["a", "b"], b"2": ["b", "c"], b"3": ["b", "a"]}
    metadata = SimpleNamespace(get_replicas=lambda keyspace, key: nodes[key])
    groups = by_nodes([Partition(key, []) for key in nodes], metadata, "shop")
    assert [[partition.key for partition in group] for group in groups] == [[b"1", b"3"], [b"2"]]


def test_partition_key_is_that_of_the_driver() -> None:
    parts = ["größe".encode(), bigint(START_MS)]
    statement = SimpleStatement("")
    statement.routing_key = parts
    assert partition_key(*parts) == statement.routing_key
