"""Writes partitions in unlogged batches. udfs/profile/sink.py gives the contract of a sink."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cassandra.cluster import Session
from cassandra.query import BatchStatement, BatchType, BoundStatement, PreparedStatement

from liveprofile.settings import CassandraSettings
from udfs.cassandra.batches import ReplicaSets, pack, server_limits
from udfs.cassandra.encoding import Values
from udfs.cassandra.executor import StatementExecutor

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
