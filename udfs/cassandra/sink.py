"""The base of both Cassandra sinks: batched writes of rows and their flags, and flag history."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from cassandra.cluster import Session
from cassandra.query import BoundStatement, PreparedStatement

from liveprofile.attributes.statements import Statement
from liveprofile.attributes.table import by_user, select_users_cql
from liveprofile.retry import until_deadline
from liveprofile.rows.profiles import MARKS
from liveprofile.rows.risk import RISK_FLAG, RISK_FLAG_BY_DAY
from liveprofile.rows.table import Table
from liveprofile.rules.flags import FlaggedRow, PastFlags, RowPosition
from liveprofile.settings import CassandraSettings
from liveprofile.storage.connection import close, connect
from liveprofile.storage.schema import check_table
from udfs.cassandra import encoding
from udfs.cassandra.batch_writer import BatchWriter, Partition, Write, bound_statement
from udfs.cassandra.executor import StatementExecutor, is_retryable
from udfs.cassandra.memberships import in_statements

Row = TypeVar("Row", bound=FlaggedRow)
Read = tuple[BoundStatement, Callable[[Sequence[Any]], None]]  # a SELECT; takes its rows


class StoredState:
    """What the tables contain about a user, as far as one of the user's rows needs it."""

    def __init__(self) -> None:
        self.latest: RowPosition | None = None  # before the row
        self.active_rules: frozenset[str] = frozenset()  # of that latest row
        self.raised: list[tuple[str, int, str]] = []  # all flags: rule id, time, event id

    def add_rows(self, rows: Iterable[tuple[int, str, Collection[str] | None]]) -> None:
        """Keeps the latest of the rows: time, event id, active rules."""
        for time_ms, event_id, active_rules in rows:
            position = RowPosition(time_ms, event_id)
            if self.latest is None or position > self.latest:
                self.latest, self.active_rules = position, frozenset(active_rules or ())

    def past_flags(self) -> PastFlags:
        raised = ((rule_id, RowPosition(*position)) for rule_id, *position in self.raised)
        return PastFlags(self.latest, self.active_rules, frozenset(raised))


class CassandraSink(ABC, Generic[Row]):
    """Writes rows with their flags. udfs/profile/sink.py gives the contract.

    session: closed by its owner; None: the sink opens and closes its own.
    Statements of the set-up that time out are repeated for `cassandra.retry_timeout_ms`: otherwise
    one of them would restart the whole job. Then their last error is raised.
    Raises ServiceError if Cassandra does not answer or lacks the tables.
    """

    def __init__(self, settings: CassandraSettings, session: Session | None):
        self._owns_session = session is None
        self._session = connect(settings) if session is None else session
        try:
            until_deadline(
                lambda: self._set_up(settings), settings.retry_timeout_ms / 1_000, is_retryable
            )
        except BaseException:
            self.close()
            raise
        self._reads = StatementExecutor(self._session, settings, "read")

    def _set_up(self, settings: CassandraSettings) -> None:
        self._prepare(settings)
        self._writer = BatchWriter(self._session, settings)

    @abstractmethod
    def _latest_reads(
        self, user_id: bytes, before: RowPosition, state: StoredState
    ) -> Iterator[list[Read]]:
        """Yields the reads that pass the user's latest row before `before` to state.add_rows.

        The reads of a list are answered before the next list is asked for.
        """

    @abstractmethod
    def _partitions(self, rows: Sequence[Row]) -> list[Partition]:
        """Returns the rows' writes, without those to risk_flag_by_day."""

    def past_flags(self, rows: Sequence[tuple[str, RowPosition]]) -> list[PastFlags]:
        """What the tables contain of each user before a row, and all of the user's flags."""
        self.flush()
        found = [StoredState() for _ in rows]
        self._read_in_steps(
            [self._look_up(*row, state) for row, state in zip(rows, found, strict=True)]
        )
        return [state.past_flags() for state in found]

    def _read_in_steps(self, lookups: list[Iterator[list[Read]]]) -> None:
        """Executes the next reads of all look-ups at once, until none has more."""
        while lookups:
            unfinished = []
            for lookup in lookups:
                reads = next(lookup, None)
                if reads is not None:
                    unfinished.append(lookup)
                    for statement, on_rows in reads:
                        self._reads.submit(statement, on_rows)
            self._reads.drain()
            lookups = unfinished

    def _look_up(
        self, user_id: str, position: RowPosition, state: StoredState
    ) -> Iterator[list[Read]]:
        key = user_id.encode()
        latest_reads = self._latest_reads(key, position, state)
        flags_read = (self._bound(self._select_flags, [key]), state.raised.extend)
        yield [flags_read, *next(latest_reads)]
        yield from latest_reads

    def write(self, rows: Sequence[Row]) -> None:
        if rows:
            self._writer.send(self._partitions(rows))
            self._writer.send(self._flags_by_day(rows))

    def flush(self) -> None:
        self._writer.drain()

    def snoozed(self, user_ids: Iterable[str]) -> dict[str, dict[str, int]]:
        snoozes_of: dict[str, dict[str, int]] = {user_id: {} for user_id in user_ids}
        for user_id, snoozes in snoozes_of.items():
            self._reads.submit(
                self._bound(self._select_snoozes, [user_id.encode()]), snoozes.update
            )
        self._reads.drain()
        return snoozes_of

    def statements(self, user_ids: Iterable[str]) -> dict[str, list[Statement]]:
        """What other systems state about each of these users. Raises StoreError."""
        users = list(user_ids)
        found: dict[str, list[Statement]] = {user_id: [] for user_id in users}
        for statement in in_statements(self._select_statements, users):
            self._reads.submit(statement, lambda rows: found.update(by_user(rows)))
        self._reads.drain()
        return found

    def close(self) -> None:
        if self._owns_session:
            close(self._session)

    def _prepare(self, settings: CassandraSettings) -> None:
        """Prepares all statements. Raises ServiceError if a table is missing."""
        check_table(self._session, settings.keyspace, "risk_flag")
        self._insert_flag = self._prepare_insert(settings, RISK_FLAG, settings.flag_ttl_s)
        self._insert_flag_by_day = self._prepare_insert(
            settings, RISK_FLAG_BY_DAY, settings.flag_ttl_s
        )
        self._select_flags = self._session.prepare(
            "SELECT rule_id, to_unix_timestamp(window_end) AS window_end_ms, event_id"
            f" FROM {settings.keyspace}.risk_flag WHERE user_id = ?"
        )
        self._select_snoozes = self._session.prepare(
            "SELECT rule_id, to_unix_timestamp(until)"
            f" FROM {settings.keyspace}.risk_snooze WHERE user_id = ?"
        )
        self._select_statements = self._session.prepare(select_users_cql(settings.keyspace))

    def _prepare_insert(
        self,
        settings: CassandraSettings,
        table: Table,
        ttl_s: int,
        without: Collection[str] = MARKS,
    ) -> PreparedStatement:
        """An INSERT of all columns that the job writes, with the time of the write."""
        return self._session.prepare(table.insert(ttl_s, settings.keyspace, without=without))

    def _flag_writes(self, row: Row) -> list[Write]:
        return [
            (self._insert_flag, encoding.encode_flag(RISK_FLAG, row, flag)) for flag in row.flags
        ]

    def _flags_by_day(self, rows: Sequence[Row]) -> list[Partition]:
        """The writes to risk_flag_by_day, those of a partition side by side."""
        partitions = []
        for row in rows:
            for flag in row.flags:
                values = encoding.encode_flag(RISK_FLAG_BY_DAY, row, flag)
                day, bucket, *_ = values
                writes = [(self._insert_flag_by_day, values)]
                partitions.append(Partition(encoding.partition_key(day, bucket), writes))
        return sorted(partitions, key=lambda partition: partition.key)

    _bound = staticmethod(bound_statement)
