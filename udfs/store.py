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

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from cassandra.cluster import Session

from liveprofile.cassandra import check_embedding_dim
from liveprofile.config import Cassandra, Settings
from udfs import store_encode as encode
from udfs.flags import Flag, FlagPast, FlagQuery
from udfs.store_flagged import FlaggedStore, Partition
from udfs.store_past import Pasts


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


class ProfileStore(Protocol):
    """See the module's docstring for the contract."""

    def flag_past(self, queries: Sequence[FlagQuery]) -> list[FlagPast]:
        """What is known of each (user, rule) before its window, rows begun here included."""

    def snoozed(self, user_ids: Iterable[str]) -> dict[str, dict[str, int]]:
        """For each user, until when (ms, by the clock) which rules shall send no alert.

        Rows begun before may be on their way meanwhile. Raises StoreError.
        """

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
    """The USING TIMESTAMP of all that a row writes (docs/data-contract.md section 8)."""
    return row.window_end_ms * 1_000 + row.revision


class CassandraStore(FlaggedStore[ProfileRow]):
    """The store of the profile lane.

    session: one that somebody else closes; without it the store opens its own.
    Raises ServiceError if Cassandra doesn't answer or lacks the tables, ConfigError if they hold
    embeddings of another size.
    """

    def __init__(self, settings: Cassandra, embedding_dim: int, session: Session | None = None):
        self._embedding_dim = embedding_dim
        super().__init__(settings, session, Pasts())

    @staticmethod
    def _active_before(keyspace: str) -> str:
        return (
            f"SELECT active_rules FROM {keyspace}.profile_delta"
            " WHERE user_id = ? AND window_end < ? LIMIT 1"
        )

    def _prepare(self, settings: Cassandra) -> None:
        check_embedding_dim(self._session, settings.keyspace, self._embedding_dim)
        super()._prepare(settings)
        self._insert_profile = self._insert(
            settings.keyspace, "user_profile", encode.PROFILE_COLUMNS, settings.profile_ttl_s
        )
        self._insert_delta = self._insert(
            settings.keyspace, "profile_delta", encode.DELTA_COLUMNS, settings.delta_ttl_s
        )
        self._insert_lookalike = self._insert(
            settings.keyspace, "user_lookalike", encode.LOOKALIKE_COLUMNS, settings.profile_ttl_s
        )

    def _partitions(self, rows: Sequence[ProfileRow]) -> tuple[list[bytes], list[Partition]]:
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
            writes += self._flag_writes(row)
            partitions.append(Partition(key, writes, encode.size(writes)))
        return encoded.keys, partitions


class MemoryStore:
    """A dict-backed store with the same semantics, for tests below the services' level."""

    def __init__(self) -> None:
        self.profiles: dict[str, ProfileRow] = {}
        self.deltas: dict[tuple[str, int], ProfileRow] = {}
        self.lookalikes: dict[str, ProfileRow] = {}
        self.flags: dict[tuple[str, int, str], Flag] = {}
        self.snoozes: dict[str, dict[str, int]] = {}
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

    def snoozed(self, user_ids: Iterable[str]) -> dict[str, dict[str, int]]:
        return {user_id: self.snoozes.get(user_id, {}) for user_id in user_ids}

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

    def snoozed(self, user_ids: Iterable[str]) -> dict[str, dict[str, int]]:
        return {user_id: {} for user_id in user_ids}

    def begin(self, rows: Sequence[ProfileRow]) -> None:
        """Nothing to do."""

    def wait(self) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """Nothing to close."""
