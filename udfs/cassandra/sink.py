"""The base of both Cassandra sinks: batched writes of rows and their flags, and flag history."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Generic, NamedTuple, TypeVar

from cassandra.cluster import Session
from cassandra.query import BatchStatement, BatchType, BoundStatement, PreparedStatement

from liveprofile.config import CassandraSettings
from liveprofile.rules.flags import FlaggedRow, FlagHistory, FlagQuery
from liveprofile.storage.connection import close, connect
from udfs.cassandra import encoding
from udfs.cassandra.batches import BatchLimits, ReplicaSets, pack, server_limits
from udfs.cassandra.encoding import Values
from udfs.cassandra.executor import StatementExecutor
from udfs.cassandra.flag_state_cache import CachedFlagState, FlagStateCache

Row = TypeVar("Row", bound=FlaggedRow)
_UserTime = tuple[int, str]  # window end or event time in ms, user id
Write = tuple[PreparedStatement, Values]


class Partition(NamedTuple):
    """Writes that share a partition key."""

    key: bytes | None  # None: the driver computes it
    writes: list[Write]
    size: int  # bytes as the server counts them, or a little more


class CassandraSink(ABC, Generic[Row]):
    """Writes rows with their flags. udfs/profile/sink.py gives the contract.

    session: closed by its owner; None: the sink opens and closes its own.
    cache: the flag states of users whose rows the sink wrote or read.
    Raises ServiceError if Cassandra does not answer or lacks the tables.
    """

    def __init__(self, settings: CassandraSettings, session: Session | None, cache: FlagStateCache):
        self._owns_session = session is None
        self._session = connect(settings) if session is None else session
        try:
            self._prepare(settings)
            self._limits = server_limits(self._session, settings.batch_bytes)
        except BaseException:
            self.close()
            raise
        self._replica_sets = ReplicaSets(self._session.cluster.metadata, settings.keyspace)
        self._keyspace = settings.keyspace
        self._writes = StatementExecutor(self._session, settings, "write")
        self._reads = StatementExecutor(self._session, settings, "read")
        self._unflushed_users: set[str] = set()
        self._cache = cache

    @staticmethod
    @abstractmethod
    def _active_rules_cql(keyspace: str) -> str:
        """Returns the SELECT of `active_rules` of a user's latest row before a time."""

    @abstractmethod
    def _partitions(self, rows: Sequence[Row]) -> tuple[list[bytes], list[Partition]]:
        """Returns each row's partition key and its writes to the tables keyed by the user."""

    @property
    def limits(self) -> BatchLimits:
        """The limits of a batch: the settings' or the server's warning thresholds."""
        return self._limits

    def flag_history(self, queries: Sequence[FlagQuery]) -> list[FlagHistory]:
        """Returns the history before each query's window, from the cache or from Cassandra."""
        windows = sorted({(query.window_end_ms, query.user_id) for query in queries}, reverse=True)
        active: dict[_UserTime, frozenset[str]] = {}
        raised: dict[_UserTime, dict[str, int]] = {}
        for window in windows:
            self._look_up(window, active, raised)
        self._reads.drain()
        earliest = {user_id: (end_ms, user_id) for end_ms, user_id in windows}
        for user_id, window in earliest.items():  # writes of the later windows update the cache
            state = CachedFlagState(window[0] - 1, active[window], raised[window])
            self._cache.put(user_id, state)
        return [
            FlagHistory(query.rule_id in active[window], raised[window].get(query.rule_id))
            for query in queries
            for window in [(query.window_end_ms, query.user_id)]
        ]

    def _look_up(
        self,
        window: _UserTime,
        active: dict[_UserTime, frozenset[str]],
        raised: dict[_UserTime, dict[str, int]],
    ) -> None:
        """Adds the window's entries from the cache at once, or by reads to be drained."""
        end_ms, user_id = window
        cached = self._cache.get(user_id, end_ms)
        if cached is not None:
            active[window] = cached.active_rules
            if cached.last_raised_ms is not None:
                raised[window] = cached.last_raised_ms
                return
        if user_id in self._unflushed_users:
            self.flush()
        values = [user_id.encode(), encoding.bigint(end_ms)]
        if cached is None:
            self._reads.submit(
                self._bound(self._select_active, values),
                lambda rows: active.__setitem__(window, frozenset((rows and rows[0][0]) or ())),
            )
        self._reads.submit(
            self._bound(self._select_flags, values),
            # The rows are newest first: reversed, the newest flag of each rule wins.
            lambda rows: raised.__setitem__(window, dict(reversed(list(rows)))),
        )

    def write(self, rows: Sequence[Row]) -> None:
        if not rows:
            return
        self._unflushed_users.update(row.user_id for row in rows)
        self._cache.update(rows)
        keys, partitions = self._partitions(rows)
        for positions in self._replica_sets.group(keys):
            self._send_batches([partitions[position] for position in positions])
        for same_partition in self._flags_by_day(rows):
            self._send_batches(same_partition)

    def flush(self) -> None:
        self._writes.drain()
        self._unflushed_users.clear()

    def snoozed(self, user_ids: Iterable[str]) -> dict[str, dict[str, int]]:
        snoozes_of: dict[str, dict[str, int]] = {user_id: {} for user_id in user_ids}
        for user_id, snoozes in snoozes_of.items():
            self._reads.submit(
                self._bound(self._select_snoozes, [user_id.encode()]), snoozes.update
            )
        self._reads.drain()
        return snoozes_of

    def close(self) -> None:
        if self._owns_session:
            close(self._session)

    def _prepare(self, settings: CassandraSettings) -> None:
        """Prepares all statements. Raises ServiceError if a table is missing."""
        self._insert_flag = self._prepare_insert(
            settings.keyspace, "risk_flag", encoding.FLAG_COLUMNS, settings.flag_ttl_s
        )
        self._insert_flag_by_day = self._prepare_insert(
            settings.keyspace, "risk_flag_by_day", encoding.FLAG_BY_DAY_COLUMNS, settings.flag_ttl_s
        )
        self._select_active = self._session.prepare(self._active_rules_cql(settings.keyspace))
        self._select_flags = self._session.prepare(
            "SELECT rule_id, to_unix_timestamp(window_end) AS window_end_ms"
            f" FROM {settings.keyspace}.risk_flag WHERE user_id = ? AND window_end < ?"
        )
        self._select_snoozes = self._session.prepare(
            "SELECT rule_id, to_unix_timestamp(until)"
            f" FROM {settings.keyspace}.risk_snooze WHERE user_id = ?"
        )

    def _prepare_insert(
        self, keyspace: str, table: str, columns: Sequence[str], ttl_s: int
    ) -> PreparedStatement:
        return self._session.prepare(encoding.insert_cql(keyspace, table, columns, ttl_s))

    def _flag_writes(self, row: Row) -> list[Write]:
        return [(self._insert_flag, encoding.encode_flag(row, flag)) for flag in row.flags]

    def _flags_by_day(self, rows: Sequence[Row]) -> Iterator[list[Partition]]:
        """Yields the writes to risk_flag_by_day, grouped by that table's partition."""
        flags = sorted(
            (encoding.encode_flag_by_day(row, flag) for row in rows for flag in row.flags),
            key=encoding.flag_by_day_partition,
        )
        for _, same_partition in groupby(flags, key=encoding.flag_by_day_partition):
            parts = []
            for values in same_partition:
                writes = [(self._insert_flag_by_day, values)]
                parts.append(Partition(None, writes, encoding.mutation_bytes(writes)))
            yield parts

    def _send_batches(self, partitions: list[Partition]) -> None:
        for positions in pack([partition.size for partition in partitions], self._limits):
            self._send([partitions[position] for position in positions])

    def _send(self, partitions: list[Partition]) -> None:
        batch = BatchStatement(BatchType.UNLOGGED)
        batch.is_idempotent = True
        batch.routing_key = partitions[0].key
        batch.keyspace = self._keyspace
        for partition in partitions:
            for prepared, values in partition.writes:
                batch.add(self._bound(prepared, values))
        self._writes.submit(batch)

    @staticmethod
    def _bound(prepared: PreparedStatement, values: Values) -> BoundStatement:
        """Returns a bound statement with values that are encoded already."""
        bound = BoundStatement(prepared)
        bound.values = values
        return bound
