"""Writes partitions in unlogged batches: same replica set, within the server's limits.

udfs/profile/sink.py gives the contract of a sink.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from cassandra import InvalidRequest, Unauthorized
from cassandra.cluster import Session
from cassandra.metadata import Metadata, Murmur3Token
from cassandra.query import BatchStatement, BatchType, BoundStatement, PreparedStatement

from liveprofile.settings import CassandraSettings
from liveprofile.storage.cql import MAX_BATCH_BYTES
from udfs.cassandra.encoding import Values
from udfs.cassandra.executor import StatementExecutor

# A batch above one of these thresholds adds a line to the server's log and a warning to its answer.
WARN_BYTES = "batch_size_warn_threshold"
WARN_PARTITIONS = "unlogged_batch_across_partitions_warn_threshold"
DEFAULTS = {WARN_BYTES: 5 << 10, WARN_PARTITIONS: 10}
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20}


class BatchLimits(NamedTuple):
    bytes: int
    partitions: int


def server_limits(session: Session) -> BatchLimits:
    """Returns MAX_BATCH_BYTES and the server's warning thresholds, whichever are lower."""
    names = ", ".join(f"'{name}'" for name in DEFAULTS)
    query = f"SELECT name, value FROM system_views.settings WHERE name IN ({names})"
    found = dict(DEFAULTS)
    # The user may not read them: the defaults count.
    with suppress(InvalidRequest, Unauthorized):
        for name, value in session.execute(query):
            if number := re.fullmatch(r"(\d+)(B|KiB|MiB)?", value or ""):
                found[name] = int(number[1]) * _UNITS[number[2] or "B"]
    return BatchLimits(min(MAX_BATCH_BYTES, found[WARN_BYTES]), max(1, found[WARN_PARTITIONS]))


def pack(sizes: Sequence[int], limits: BatchLimits) -> Iterator[range]:
    """Yields consecutive ranges of positions within the limits.

    sizes: bytes of each partition. A partition above limits.bytes gets a range of its own.
    """
    start, total = 0, 0
    for position, size in enumerate(sizes):
        full = total + size > limits.bytes or position - start >= limits.partitions
        if full and position > start:
            yield range(start, position)
            start, total = position, 0
        total += size
    if start < len(sizes):
        yield range(start, len(sizes))


class ReplicaSets:
    """Groups partition keys by the set of nodes that hold them.

    If all rows of a batch live on the same nodes, its coordinator forwards it to no other node.
    """

    def __init__(self, metadata: Metadata, keyspace: str):
        self._metadata, self._keyspace = metadata, keyspace
        self._token_map: object = None  # the map that the next two were read from
        self._ring = np.empty(0, np.int64)
        self._set_of_range = np.empty(0, np.int64)

    def group(self, keys: Sequence[bytes]) -> list[Sequence[int]]:
        """Returns the positions of `keys`, one sequence per replica set."""
        if self._metadata.token_map is not self._token_map:  # the ring has changed
            self._read_ring()
        if len(set(self._set_of_range.tolist())) <= 1:
            return [range(len(keys))]
        tokens = np.array([Murmur3Token.hash_fn(key) for key in keys], np.int64)
        # A range belongs to the token at its end; tokens above the last one wrap to the first.
        ranges = np.searchsorted(self._ring, tokens, side="left") % len(self._ring)
        sets = self._set_of_range[ranges]
        order = np.argsort(sets, kind="stable")
        cuts = np.flatnonzero(np.diff(sets[order])) + 1
        return [part.tolist() for part in np.split(order, cuts)]

    def _read_ring(self) -> None:
        token_map = self._metadata.token_map
        self._token_map = token_map
        self._ring = self._set_of_range = np.empty(0, np.int64)
        if token_map is None or token_map.token_class is not Murmur3Token:
            return  # unknown ring: one group, whose coordinator may forward rows
        numbers: dict[frozenset[object], int] = {}
        sets = [
            numbers.setdefault(
                frozenset(host.host_id for host in token_map.get_replicas(self._keyspace, token)),
                len(numbers),
            )
            for token in token_map.ring
        ]
        self._ring = np.array([token.value for token in token_map.ring], np.int64)
        self._set_of_range = np.array(sets, np.int64)


Write = tuple[PreparedStatement, Values]


class Partition(NamedTuple):
    """Writes that share a partition key."""

    key: bytes  # as routing needs it
    writes: list[Write]
    size: int  # bytes as the server counts them, or a little more


class BatchWriter:
    """Sends partitions and returns before they are stored; `drain` waits for all of them.

    Both raise StoreError if a write fails for good.
    """

    def __init__(self, session: Session, settings: CassandraSettings):
        # The limits of a batch: MAX_BATCH_BYTES or the server's warning thresholds.
        self.limits = server_limits(session)
        self._replica_sets = ReplicaSets(session.cluster.metadata, settings.keyspace)
        self._keyspace = settings.keyspace
        self._executor = StatementExecutor(session, settings, "write")

    def send(self, partitions: Sequence[Partition]) -> None:
        """Sends partitions, grouped by their replicas."""
        for positions in self._replica_sets.group([partition.key for partition in partitions]):
            same_replicas = [partitions[position] for position in positions]
            for batch in pack([partition.size for partition in same_replicas], self.limits):
                self._send([same_replicas[position] for position in batch])

    def drain(self) -> None:
        """Returns when every write is acknowledged."""
        self._executor.drain()

    def _send(self, partitions: list[Partition]) -> None:
        batch = BatchStatement(BatchType.UNLOGGED)
        batch.is_idempotent = True
        batch.routing_key = partitions[0].key
        batch.keyspace = self._keyspace
        for partition in partitions:
            for prepared, values in partition.writes:
                batch.add(bound_statement(prepared, values))
        self._executor.submit(batch)


def bound_statement(prepared: PreparedStatement, values: Values) -> BoundStatement:
    """Returns a bound statement with values that are encoded already."""
    bound = BoundStatement(prepared)
    bound.values = values
    return bound
