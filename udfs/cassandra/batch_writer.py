"""Writes partitions in unlogged batches within the server's limits.

udfs/profile/writer.py gives the contract of a writer.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from cassandra import InvalidRequest, Unauthorized
from cassandra.cluster import Session
from cassandra.metadata import Metadata
from cassandra.pool import Host
from cassandra.query import BatchStatement, BatchType, BoundStatement, PreparedStatement

from liveprofile.settings import CassandraSettings
from liveprofile.storage.cql import MAX_BATCH_BYTES
from udfs.cassandra.encoding import Values, mutation_bytes
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


Write = tuple[PreparedStatement, Values]


class Partition(NamedTuple):
    """Writes that share a partition key."""

    key: bytes  # as routing needs it
    writes: list[Write]


def by_nodes(
    partitions: Sequence[Partition], metadata: Metadata, keyspace: str
) -> Iterable[list[Partition]]:
    """Groups partitions by the nodes that hold them: no coordinator forwards a part of a batch."""
    groups: dict[frozenset[Host], list[Partition]] = defaultdict(list)
    for partition in partitions:
        groups[frozenset(metadata.get_replicas(keyspace, partition.key))].append(partition)
    return groups.values()


class BatchWriter:
    """Sends partitions and returns before they are stored; `drain` waits for all of them.

    Both raise StoreError if a write fails for good.
    """

    def __init__(self, session: Session, settings: CassandraSettings):
        # The limits of a batch: MAX_BATCH_BYTES or the server's warning thresholds.
        self.limits = server_limits(session)
        self._metadata, self._keyspace = session.cluster.metadata, settings.keyspace
        self._executor = StatementExecutor(session, settings, "write")

    def send(self, partitions: Sequence[Partition]) -> None:
        """Sends partitions in batches of those that the same nodes hold."""
        for group in by_nodes(partitions, self._metadata, self._keyspace):
            sizes = [mutation_bytes(partition.writes) for partition in group]
            for batch in pack(sizes, self.limits):
                self._send(group[batch.start : batch.stop])

    def drain(self) -> None:
        """Returns when every write is acknowledged."""
        self._executor.drain()

    def _send(self, partitions: Sequence[Partition]) -> None:
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
