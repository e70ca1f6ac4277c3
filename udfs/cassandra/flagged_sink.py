"""Rows and their flags in Cassandra: what the stores of both lanes have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Generic, NamedTuple, TypeVar

from cassandra.cluster import Session
from cassandra.query import BatchStatement, BatchType, BoundStatement, PreparedStatement

from liveprofile.config import CassandraSettings
from liveprofile.rules.flags import Flagged, FlagHistory, FlagQuery
from liveprofile.storage.connection import close, connect
from udfs.cassandra import encoding
from udfs.cassandra.batches import BatchLimits, ReplicaSets, pack, server_limits
from udfs.cassandra.flag_state_cache import FlagState, FlagStateCache
from udfs.cassandra.requests import Requests

Row = TypeVar("Row", bound=Flagged)
_Time = tuple[int, str]  # window end or event time, user
Write = tuple[PreparedStatement, list[bytes | None]]


class Partition(NamedTuple):
    key: bytes | None  # None: the driver works it out
    writes: list[Write]
    size: int  # bytes as the server counts them, or a little more


class FlaggedSink(ABC, Generic[Row]):
    """Writes rows of users, each with its flags, by the contract of udfs/profile/sink.py.

    session: one that somebody else closes; without it the store opens its own. pasts: what it
    remembers of the rows that pass by.
    Raises ServiceError if Cassandra doesn't answer or lacks the tables.
    """

    def __init__(self, settings: CassandraSettings, session: Session | None, pasts: FlagStateCache):
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
        self._writes = Requests(self._session, settings, "write")
        self._reads = Requests(self._session, settings, "read")
        self._begun_users: set[str] = set()
        self._pasts = pasts

    @staticmethod
    @abstractmethod
    def _active_before(keyspace: str) -> str:
        """CQL: `active_rules` of a user's latest row before a time."""

    @abstractmethod
    def _partitions(self, rows: Sequence[Row]) -> tuple[list[bytes], list[Partition]]:
        """For each row the key, and the writes to tables that are keyed by the user."""

    @property
    def limits(self) -> BatchLimits:
        """What a batch may hold: the settings', or less if the server would warn."""
        return self._limits

    def flag_history(self, queries: Sequence[FlagQuery]) -> list[FlagHistory]:
        windows = sorted({(query.window_end_ms, query.user_id) for query in queries}, reverse=True)
        active: dict[_Time, frozenset[str]] = {}
        raised: dict[_Time, dict[str, int]] = {}
        for window in windows:
            self._find_past(window, active, raised)
        self._reads.drain()
        earliest = {user_id: (end_ms, user_id) for end_ms, user_id in windows}
        for user_id, window in earliest.items():  # the writes that follow add the others
            self._pasts.learn(user_id, FlagState(window[0] - 1, active[window], raised[window]))
        return [
            FlagHistory(query.rule_id in active[window], raised[window].get(query.rule_id))
            for query in queries
            for window in [(query.window_end_ms, query.user_id)]
        ]

    def _find_past(
        self,
        window: _Time,
        active: dict[_Time, frozenset[str]],
        raised: dict[_Time, dict[str, int]],
    ) -> None:
        """Fills in from memory at once, from Cassandra when the reads are drained."""
        end_ms, user_id = window
        past = self._pasts.before(user_id, end_ms)
        if past is not None:
            active[window] = past.active
            if past.raised_ms is not None:
                raised[window] = past.raised_ms
                return
        if user_id in self._begun_users:
            self.wait()
        values = [user_id.encode(), encoding.bigint(end_ms)]
        if past is None:
            self._reads.submit(
                self._bound(self._select_active, values),
                lambda rows: active.__setitem__(window, frozenset((rows and rows[0][0]) or ())),
            )
        self._reads.submit(
            self._bound(self._select_flags, values),
            # Newest first, so the newest of each rule is written last.
            lambda rows: raised.__setitem__(window, dict(reversed(list(rows)))),
        )

    def begin(self, rows: Sequence[Row]) -> None:
        if not rows:
            return
        self._begun_users.update(row.user_id for row in rows)
        self._pasts.write(rows)
        keys, partitions = self._partitions(rows)
        for indices in self._replica_sets.group(keys):
            sizes = [partitions[index].size for index in indices]
            for batch in pack(sizes, self._limits):
                self._send([partitions[indices[position]] for position in batch])
        for same_day in self._flags_by_day(rows):
            for batch in pack([part.size for part in same_day], self._limits):
                self._send([same_day[position] for position in batch])

    def wait(self) -> None:
        self._writes.drain()
        self._begun_users.clear()

    def snoozed(self, user_ids: Iterable[str]) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {user_id: {} for user_id in user_ids}
        for user_id, snoozes in found.items():
            self._reads.submit(
                self._bound(self._select_snoozes, [user_id.encode()]), snoozes.update
            )
        self._reads.drain()
        return found

    def close(self) -> None:
        if self._owns_session:
            close(self._session)

    def _prepare(self, settings: CassandraSettings) -> None:
        self._insert_flag = self._insert(
            settings.keyspace, "risk_flag", encoding.FLAG_COLUMNS, settings.flag_ttl_s
        )
        self._insert_flag_by_day = self._insert(
            settings.keyspace, "risk_flag_by_day", encoding.FLAG_BY_DAY_COLUMNS, settings.flag_ttl_s
        )
        self._select_active = self._session.prepare(self._active_before(settings.keyspace))
        self._select_flags = self._session.prepare(
            "SELECT rule_id, to_unix_timestamp(window_end) AS window_end_ms"
            f" FROM {settings.keyspace}.risk_flag WHERE user_id = ? AND window_end < ?"
        )
        self._select_snoozes = self._session.prepare(
            "SELECT rule_id, to_unix_timestamp(until)"
            f" FROM {settings.keyspace}.risk_snooze WHERE user_id = ?"
        )

    def _insert(
        self, keyspace: str, table: str, columns: Sequence[str], ttl_s: int
    ) -> PreparedStatement:
        return self._session.prepare(encoding.insert(keyspace, table, columns, ttl_s))

    def _flag_writes(self, row: Row) -> list[Write]:
        return [(self._insert_flag, encoding.flag(row, flag)) for flag in row.flags]

    def _flags_by_day(self, rows: Sequence[Row]) -> Iterator[list[Partition]]:
        """The flags again for the table by day, those of one partition together."""
        flags = sorted(
            (encoding.flag_by_day(row, flag) for row in rows for flag in row.flags),
            key=encoding.flag_day_and_bucket,
        )
        for _, same in groupby(flags, key=encoding.flag_day_and_bucket):
            parts = []
            for values in same:
                writes = [(self._insert_flag_by_day, values)]
                parts.append(Partition(None, writes, encoding.size(writes)))
            yield parts

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
    def _bound(prepared: PreparedStatement, values: list[bytes | None]) -> BoundStatement:
        """A bound statement from values serialised already: bind() would do it one by one."""
        bound = BoundStatement(prepared)
        bound.values = values
        return bound
