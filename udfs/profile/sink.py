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
from typing import Protocol

from cassandra.cluster import Session

from liveprofile.config import CassandraSettings, Settings
from liveprofile.rules.flags import FlagHistory, FlagQuery
from liveprofile.storage.schema import check_embedding_dim
from udfs.cassandra import encoding
from udfs.cassandra.flag_state_cache import FlagStateCache
from udfs.cassandra.flagged_sink import FlaggedSink, Partition
from udfs.null_sink import NullSink
from udfs.profile import row_encoding
from udfs.profile.profile_row import ProfileRow, write_time_us


class ProfileSink(Protocol):
    """See the module's docstring for the contract."""

    def flag_history(self, queries: Sequence[FlagQuery]) -> list[FlagHistory]:
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


def open_profile_sink(settings: Settings, embedding_dim: int) -> ProfileSink:
    """The store that `job.store` names. Raises as CassandraStore."""
    if settings.job.store == "none":
        return NullSink()
    return CassandraProfileSink(settings.cassandra, embedding_dim)


class CassandraProfileSink(FlaggedSink[ProfileRow]):
    """The store of the profile lane.

    session: one that somebody else closes; without it the store opens its own.
    Raises ServiceError if Cassandra doesn't answer or lacks the tables, ConfigError if they hold
    embeddings of another size.
    """

    def __init__(
        self, settings: CassandraSettings, embedding_dim: int, session: Session | None = None
    ):
        self._embedding_dim = embedding_dim
        super().__init__(settings, session, FlagStateCache())

    @staticmethod
    def _active_before(keyspace: str) -> str:
        return (
            f"SELECT active_rules FROM {keyspace}.profile_delta"
            " WHERE user_id = ? AND window_end < ? LIMIT 1"
        )

    def _prepare(self, settings: CassandraSettings) -> None:
        check_embedding_dim(self._session, settings.keyspace, self._embedding_dim)
        super()._prepare(settings)
        self._insert_profile = self._insert(
            settings.keyspace, "user_profile", row_encoding.PROFILE_COLUMNS, settings.profile_ttl_s
        )
        self._insert_delta = self._insert(
            settings.keyspace, "profile_delta", row_encoding.DELTA_COLUMNS, settings.delta_ttl_s
        )
        self._insert_lookalike = self._insert(
            settings.keyspace,
            "user_lookalike",
            row_encoding.LOOKALIKE_COLUMNS,
            settings.profile_ttl_s,
        )

    def _partitions(self, rows: Sequence[ProfileRow]) -> tuple[list[bytes], list[Partition]]:
        """One partition a row: all that goes to tables keyed by the user is one mutation.

        Of a user's windows only the newest writes the profile, which it would overwrite.
        """
        encoded = row_encoding.rows(rows, self._embedding_dim)
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
            partitions.append(Partition(key, writes, encoding.size(writes)))
        return encoded.keys, partitions
