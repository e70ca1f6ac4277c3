"""Writes profiles, deltas, flags and memberships to Cassandra.

Contract of a writer, which Flink's checkpoints rely on:

- `write` hands rows over and returns before they are stored. It blocks while too many requests are
  in flight.
- `flush` returns when Cassandra has acknowledged every row at the configured consistency. Only then
  may the UDF return its rows, so that a checkpoint covers stored rows only.
- A write that fails with a retryable error is retried. If it keeps failing, or cannot succeed,
  `write` or `flush` raises StoreError. After that every call raises it again, so no failed write
  counts as stored: the task fails and Flink replays the rows.
- Every write is idempotent (deterministic keys, udfs.cassandra.encoding.write_time_us). A retried
  batch or a lost acknowledgement changes nothing, nor does a replay with the same values.
- A writer is used by one thread only.
"""

from collections.abc import Sequence
from typing import Protocol

from cassandra.cluster import Session
from cassandra.query import UNSET_VALUE

from liveprofile.rows.profiles import LATER_SUMS, PROFILE_DELTA, USER_LOOKALIKE, USER_PROFILE
from liveprofile.segments.membership import MembershipWrite
from liveprofile.settings import CassandraSettings
from liveprofile.storage.schema import check_embedding_dim
from udfs.cassandra import encoding
from udfs.cassandra.batch_writer import Partition
from udfs.cassandra.memberships import MembershipTables
from udfs.cassandra.writer import CassandraWriter
from udfs.profile.rows import ProfileRow, encode_rows, encode_sums


class ProfileWriter(Protocol):
    """Writes rows by the contract above."""

    def write(self, rows: Sequence[ProfileRow]) -> None:
        """Hands rows over. Raises StoreError."""

    def flush(self) -> None:
        """Returns when every row is stored. Raises StoreError."""


class CassandraProfileWriter(CassandraWriter[ProfileRow]):
    """Writes user_profile, profile_delta, user_lookalike, later_sums, and the tables of flags and
    segments.

    Raises ServiceError if a table is missing, ConfigError if the tables hold embeddings of another
    size.
    """

    def __init__(self, session: Session, settings: CassandraSettings, embedding_dim: int):
        check_embedding_dim(session, settings.keyspace, embedding_dim)
        super().__init__(session, settings)
        self._embedding_dim = embedding_dim
        self.memberships = MembershipTables(session, settings)
        profile_ttl_s = settings.profile_ttl_s
        self._insert_profile = self.prepare_insert(USER_PROFILE, profile_ttl_s)
        self._insert_delta = self.prepare_insert(PROFILE_DELTA, settings.delta_ttl_s)
        self._insert_lookalike = self.prepare_insert(USER_LOOKALIKE, profile_ttl_s)
        self._insert_sums = self.prepare_insert(LATER_SUMS, profile_ttl_s)

    def write(self, rows: Sequence[ProfileRow]) -> None:
        super().write(rows)
        writes = [write for row in rows for write in row.memberships]
        self.send(self.memberships.member_partitions(writes))

    def partitions(self, rows: Sequence[ProfileRow]) -> list[Partition]:
        """Makes one partition per row: its writes to tables keyed by the user are one mutation.

        Of a user's windows in `rows` only the newest writes the profile, because it would
        overwrite the others. It also writes the memberships of all of them: if a later change were
        stored without an earlier one, a replay would take the earlier one for stored and sent.
        """
        encoded = encode_rows(rows, self._embedding_dim)
        times_us = list(map(encoding.write_time_us, rows))
        newest_us: dict[str, int] = {}
        memberships: dict[str, list[MembershipWrite]] = {}
        for row, time_us in zip(rows, times_us, strict=True):
            newest_us[row.user_id] = max(newest_us.get(row.user_id, time_us), time_us)
            if row.memberships:
                memberships.setdefault(row.user_id, []).extend(row.memberships)
        partitions = []
        for row, time_us, key, profile, delta, lookalike in zip(
            rows, times_us, *encoded, strict=True
        ):
            writes = [(self._insert_delta, delta)]
            if time_us == newest_us[row.user_id]:
                writes.append((self._insert_profile, profile))
                writes += self.memberships.user_writes(memberships.pop(row.user_id, ()))
            if row.write_lookalike:
                writes.append((self._insert_lookalike, lookalike))
            elif row.index_segments:
                user_id, _, segments, _, time = lookalike
                values = [user_id, UNSET_VALUE, segments, UNSET_VALUE, time]
                writes.append((self._insert_lookalike, values))
            if row.later_sums is not None:
                writes.append((self._insert_sums, encode_sums(row)))
            writes += self.flag_writes(row)
            partitions.append(Partition(key, writes))
        return partitions
