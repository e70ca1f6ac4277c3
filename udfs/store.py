"""Where profiles, deltas and flags are kept: the contract, Cassandra, and an in-memory fake.

The contract of a store, which the job's checkpoint rests on:

- `begin` hands rows over and returns before they are written; it blocks while too many requests
  are open.
- `wait` returns once every row begun is acknowledged by Cassandra at the settings' consistency.
  Only then may the operator pass the rows on, and Flink count them in a checkpoint.
- A write that fails for a passing reason is sent again; one that goes on failing, or never can
  succeed, raises StoreError from `begin` or `wait`. From then on the store refuses everything, so
  no failed write is ever taken for a success: the task fails and the rows are replayed.
- Every write is idempotent (deterministic keys, write time = window end + model revision), so a
  replay, a resent batch or an answer that got lost changes nothing.
- A store belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import numpy as np
from cassandra.cluster import Session
from cassandra.query import BatchStatement, BatchType, BoundStatement, PreparedStatement

from liveprofile.cassandra import check_embedding_dim, close, connect
from liveprofile.config import Cassandra, Settings
from udfs import store_encode as encode
from udfs.store_batches import BatchLimits, ReplicaSets, pack, server_limits
from udfs.store_past import Past, Pasts
from udfs.store_requests import Requests


class Flag(NamedTuple):
    """A risk flag raised by one rule in one window."""

    flag_id: str
    rule_id: str
    reason: str
    severity: str
    action: str
    value: float
    threshold: float
    message: str
    evidence: dict[str, Any]
    rules_version: str


class ProfileRow(NamedTuple):
    """What one window of one user leaves behind. JSON is UTF-8 bytes, money in shop currency."""

    user_id: str
    window_start_ms: int
    window_end_ms: int
    model_version: str
    feature_version: int
    revision: int  # of the model, 0 to 999: breaks ties between two writes of one window
    churn: float
    expected_spend: float
    surprise: float
    recency_days: float | None
    purchases_decayed: float
    amount_decayed: float
    segments: list[str]
    profile_json: bytes
    embedding: np.ndarray  # (dim,) float32
    events: int
    amount: float
    embedding_distance: float
    active_rules: list[str]
    delta_json: bytes
    digests: bytes  # 8 bytes an event
    events_total: int
    write_lookalike: bool  # embedding moved enough, or segments changed
    flags: list[Flag]


class FlagQuery(NamedTuple):
    user_id: str
    rule_id: str
    window_end_ms: int


class FlagPast(NamedTuple):
    was_true: bool  # the rule was true in the user's latest window before this one
    last_raised_ms: int | None  # window end of the rule's newest flag before this one


class ProfileStore(Protocol):
    """See the module's docstring for the contract."""

    def flag_past(self, queries: Sequence[FlagQuery]) -> list[FlagPast]:
        """What is known of each (user, rule) before its window, rows begun here included."""

    def begin(self, rows: Sequence[ProfileRow]) -> None:
        """Starts to write rows. Raises StoreError if an earlier write failed for good."""

    def wait(self) -> None:
        """Returns when every row begun is acknowledged. Raises StoreError, naming the cause."""

    def close(self) -> None:
        """Lets go of connections; doesn't wait for what was begun."""


def open_store(settings: Settings, embedding_dim: int) -> ProfileStore:
    """The store that `job.store` names. Raises as CassandraStore."""
    if settings.job.store == "none":
        return NoStore()
    return CassandraStore(settings.cassandra, embedding_dim)


def write_time_us(row: ProfileRow) -> int:
    """The USING TIMESTAMP of all that a row writes (docs/data-contract.md section 7)."""
    return row.window_end_ms * 1_000 + row.revision


_Window = tuple[int, str]  # window end, user


class CassandraStore:
    """The store of the job.

    session: one that somebody else closes; without it the store opens its own.
    Raises ServiceError if Cassandra doesn't answer or lacks the tables, ConfigError if they hold
    embeddings of another size.
    """

    def __init__(self, settings: Cassandra, embedding_dim: int, session: Session | None = None):
        self._owns_session = session is None
        self._session = connect(settings) if session is None else session
        try:
            check_embedding_dim(self._session, settings.keyspace, embedding_dim)
            self._prepare(settings)
            self._limits = server_limits(self._session, settings.batch_bytes)
        except BaseException:
            self.close()
            raise
        self._embedding_dim = embedding_dim
        self._replica_sets = ReplicaSets(self._session.cluster.metadata, settings.keyspace)
        self._keyspace = settings.keyspace
        self._writes = Requests(self._session, settings, "write")
        self._reads = Requests(self._session, settings, "read")
        self._begun_users: set[str] = set()
        self._pasts = Pasts()

    @property
    def limits(self) -> BatchLimits:
        """What a batch may hold: the settings', or less if the server would warn."""
        return self._limits

    def flag_past(self, queries: Sequence[FlagQuery]) -> list[FlagPast]:
        windows = sorted({(query.window_end_ms, query.user_id) for query in queries}, reverse=True)
        active: dict[_Window, frozenset[str]] = {}
        raised: dict[_Window, dict[str, int]] = {}
        for window in windows:
            self._find_past(window, active, raised)
        self._reads.drain()
        earliest = {user_id: (end_ms, user_id) for end_ms, user_id in windows}
        for user_id, window in earliest.items():  # the writes that follow add the others
            self._pasts.learn(user_id, Past(window[0] - 1, active[window], raised[window]))
        return [
            FlagPast(query.rule_id in active[window], raised[window].get(query.rule_id))
            for query in queries
            for window in [(query.window_end_ms, query.user_id)]
        ]

    def _find_past(
        self,
        window: _Window,
        active: dict[_Window, frozenset[str]],
        raised: dict[_Window, dict[str, int]],
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
        values = [user_id.encode(), encode.bigint(end_ms)]
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

    def begin(self, rows: Sequence[ProfileRow]) -> None:
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

    def close(self) -> None:
        if self._owns_session:
            close(self._session)

    def _prepare(self, settings: Cassandra) -> None:
        def insert(table: str, columns: Sequence[str], ttl_s: int) -> PreparedStatement:
            return self._session.prepare(encode.insert(settings.keyspace, table, columns, ttl_s))

        self._insert_profile = insert(
            "user_profile", encode.PROFILE_COLUMNS, settings.profile_ttl_s
        )
        self._insert_delta = insert("profile_delta", encode.DELTA_COLUMNS, settings.delta_ttl_s)
        self._insert_lookalike = insert(
            "user_lookalike", encode.LOOKALIKE_COLUMNS, settings.profile_ttl_s
        )
        self._insert_flag = insert("risk_flag", encode.FLAG_COLUMNS, settings.flag_ttl_s)
        self._insert_flag_by_day = insert(
            "risk_flag_by_day", encode.FLAG_BY_DAY_COLUMNS, settings.flag_ttl_s
        )
        self._select_active = self._session.prepare(
            f"SELECT active_rules FROM {settings.keyspace}.profile_delta"
            " WHERE user_id = ? AND window_end < ? LIMIT 1"
        )
        self._select_flags = self._session.prepare(
            "SELECT rule_id, to_unix_timestamp(window_end) AS window_end_ms"
            f" FROM {settings.keyspace}.risk_flag WHERE user_id = ? AND window_end < ?"
        )

    def _partitions(self, rows: Sequence[ProfileRow]) -> tuple[list[bytes], list[_Partition]]:
        """One partition a row: all that goes to tables keyed by the user is one mutation.

        Of a user's windows only the newest writes the profile, which it would overwrite.
        """
        encoded = encode.rows(rows, self._embedding_dim)
        times_us = list(map(write_time_us, rows))
        newest_us: dict[str, int] = {}
        for row, time_us in zip(rows, times_us, strict=True):
            newest_us[row.user_id] = max(newest_us.get(row.user_id, time_us), time_us)
        partitions = []
        for row, time_us, key, profile, delta, lookalike in zip(
            rows,
            times_us,
            encoded.keys,
            encoded.profiles,
            encoded.deltas,
            encoded.lookalikes,
            strict=True,
        ):
            writes = [(self._insert_delta, delta)]
            if time_us == newest_us[row.user_id]:
                writes.append((self._insert_profile, profile))
            if row.write_lookalike:
                writes.append((self._insert_lookalike, lookalike))
            for flag in row.flags:
                writes.append((self._insert_flag, encode.flag(row, flag)))
            partitions.append(_Partition(key, writes, encode.size(writes)))
        return encoded.keys, partitions

    def _flags_by_day(self, rows: Sequence[ProfileRow]) -> Iterator[list[_Partition]]:
        """The flags again for the table by day, those of one partition together."""
        flags = sorted(
            (encode.flag_by_day(row, flag) for row in rows for flag in row.flags),
            key=encode.flag_day_and_bucket,
        )
        for _, same in groupby(flags, key=encode.flag_day_and_bucket):
            parts = []
            for values in same:
                writes = [(self._insert_flag_by_day, values)]
                parts.append(_Partition(None, writes, encode.size(writes)))
            yield parts

    def _send(self, partitions: list[_Partition]) -> None:
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


class _Partition(NamedTuple):
    key: bytes | None  # None: the driver works it out
    writes: list[tuple[PreparedStatement, list[bytes | None]]]
    size: int  # bytes as the server counts them, or a little more


class MemoryStore:
    """A dict-backed store with the same semantics, for tests below the services' level."""

    def __init__(self) -> None:
        self.profiles: dict[str, ProfileRow] = {}
        self.deltas: dict[tuple[str, int], ProfileRow] = {}
        self.lookalikes: dict[str, ProfileRow] = {}
        self.flags: dict[tuple[str, int, str], Flag] = {}
        self.closed = False

    def flag_past(self, queries: Sequence[FlagQuery]) -> list[FlagPast]:
        return [self._flag_past(query) for query in queries]

    def _flag_past(self, query: FlagQuery) -> FlagPast:
        earlier = [
            row
            for (user_id, window_end_ms), row in self.deltas.items()
            if user_id == query.user_id and window_end_ms < query.window_end_ms
        ]
        latest = max(earlier, key=lambda row: row.window_end_ms, default=None)
        raised = [
            window_end_ms
            for (user_id, window_end_ms, rule_id) in self.flags
            if (user_id, rule_id) == (query.user_id, query.rule_id)
            and window_end_ms < query.window_end_ms
        ]
        return FlagPast(
            latest is not None and query.rule_id in latest.active_rules,
            max(raised, default=None),
        )

    def begin(self, rows: Sequence[ProfileRow]) -> None:
        for row in rows:
            self._keep_newer(self.profiles, row.user_id, row)
            self._keep_newer(self.deltas, (row.user_id, row.window_end_ms), row)
            if row.write_lookalike:
                self._keep_newer(self.lookalikes, row.user_id, row)
            for flag in row.flags:
                self.flags[row.user_id, row.window_end_ms, flag.rule_id] = flag

    @staticmethod
    def _keep_newer(table: dict[Any, ProfileRow], key: Any, row: ProfileRow) -> None:
        if key not in table or write_time_us(table[key]) <= write_time_us(row):
            table[key] = row

    def wait(self) -> None:
        """Nothing is ever on its way."""

    def close(self) -> None:
        self.closed = True


class NoStore:
    """Keeps nothing and remembers nothing: every rule that is true raises a flag."""

    def flag_past(self, queries: Sequence[FlagQuery]) -> list[FlagPast]:
        return [FlagPast(was_true=False, last_raised_ms=None)] * len(queries)

    def begin(self, rows: Sequence[ProfileRow]) -> None:
        """Nothing to do."""

    def wait(self) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """Nothing to close."""
