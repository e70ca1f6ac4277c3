"""Batched writes of the rows of a pipeline, with their flags. udfs/profile/writer.py gives the
contract."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Generic, TypeVar

from cassandra.cluster import Session
from cassandra.query import PreparedStatement

from liveprofile.rows.profiles import MARKS
from liveprofile.rows.risk import RISK_FLAG, RISK_FLAG_BY_DAY
from liveprofile.rows.table import Table
from liveprofile.rules.flags import FlaggedRow
from liveprofile.settings import CassandraSettings
from liveprofile.storage.schema import check_table
from udfs.cassandra import encoding
from udfs.cassandra.batch_writer import BatchWriter, Partition, Write

Row = TypeVar("Row", bound=FlaggedRow)


class CassandraWriter(ABC, Generic[Row]):
    """Writes rows with their flags. Raises ServiceError if a table is missing."""

    def __init__(self, session: Session, settings: CassandraSettings):
        check_table(session, settings.keyspace, "risk_flag")
        self._session, self._settings = session, settings
        self._insert_flag = self.prepare_insert(RISK_FLAG, settings.flag_ttl_s)
        self._insert_flag_by_day = self.prepare_insert(RISK_FLAG_BY_DAY, settings.flag_ttl_s)
        self._writer = BatchWriter(session, settings)

    @abstractmethod
    def partitions(self, rows: Sequence[Row]) -> list[Partition]:
        """Returns the rows' writes, without those to risk_flag_by_day."""

    def write(self, rows: Sequence[Row]) -> None:
        """Hands rows over. Raises StoreError."""
        if rows:
            self.send(self.partitions(rows))
            self.send(self.flags_by_day(rows))

    def send(self, partitions: Sequence[Partition]) -> None:
        """Hands writes over. Raises StoreError."""
        self._writer.send(partitions)

    def flush(self) -> None:
        """Waits until everything is stored. Raises StoreError."""
        self._writer.drain()

    def prepare_insert(
        self, table: Table, ttl_s: int, without: Collection[str] = MARKS
    ) -> PreparedStatement:
        """An INSERT of all columns that the job writes, with the time of the write."""
        return self._session.prepare(table.insert(ttl_s, self._settings.keyspace, without=without))

    def flag_writes(self, row: Row) -> list[Write]:
        """The writes to risk_flag."""
        return [
            (self._insert_flag, encoding.encode_flag(RISK_FLAG, row, flag)) for flag in row.flags
        ]

    def flags_by_day(self, rows: Sequence[Row]) -> list[Partition]:
        """The writes to risk_flag_by_day, those of a partition side by side."""
        partitions = []
        for row in rows:
            for flag in row.flags:
                values = encoding.encode_flag(RISK_FLAG_BY_DAY, row, flag)
                day, bucket, *_ = values
                writes = [(self._insert_flag_by_day, values)]
                partitions.append(Partition(encoding.partition_key(day, bucket), writes))
        return sorted(partitions, key=lambda partition: partition.key)
