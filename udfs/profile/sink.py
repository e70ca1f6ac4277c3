"""The sink of the profile pipeline: writes profiles, deltas and flags to Cassandra.

Contract of a sink, which Flink's checkpoints rely on:

- `write` hands rows over and returns before they are stored. It blocks while too many requests are
  in flight.
- `flush` returns when Cassandra has acknowledged every row at the configured consistency. Only then
  may the UDF return its rows, so that a checkpoint covers stored rows only.
- A write that fails with a retryable error is retried. If it keeps failing, or cannot succeed,
  `write` or `flush` raises StoreError. After that every call raises it again, so no failed write
  counts as stored: the task fails and Flink replays the rows.
- Every write is idempotent (deterministic keys, udfs.cassandra.encoding.write_time_us). A retried
  batch or a lost acknowledgement changes nothing, nor does a replay with the same values.
- A sink is used by one thread only.
"""

from collections.abc import Iterable, Iterator, Sequence

from cassandra.cluster import Session
from cassandra.query import UNSET_VALUE

from liveprofile.rows.profiles import (
    LATER_SUMS,
    PROFILE_DELTA,
    USER_LOOKALIKE,
    USER_PROFILE,
)
from liveprofile.rules.flags import RowPosition
from liveprofile.segments.membership import ChangeKey, Membership, Memberships, MembershipWrite
from liveprofile.settings import CassandraSettings, Settings
from liveprofile.storage.schema import check_embedding_dim
from udfs.cassandra import encoding
from udfs.cassandra.batch_writer import Partition
from udfs.cassandra.memberships import MembershipTables
from udfs.cassandra.sink import CassandraSink, Read, StoredState
from udfs.privacy import StoredSums, SumsKey
from udfs.profile.row import ProfileRow, decode_sums, encode_rows, encode_sums


class CassandraProfileSink(CassandraSink[ProfileRow]):
    """Writes user_profile, profile_delta, user_lookalike, later_sums, and the tables of flags and
    segments.

    session: closed by its owner; None: the sink opens and closes its own.
    Raises ServiceError if Cassandra does not answer or lacks the tables, ConfigError if the tables
    hold embeddings of another size.
    """

    def __init__(
        self, settings: CassandraSettings, embedding_dim: int, session: Session | None = None
    ):
        self._embedding_dim = embedding_dim
        super().__init__(settings, session)

    def _latest_reads(
        self, user_id: bytes, before: RowPosition, state: StoredState
    ) -> Iterator[list[Read]]:
        values = [user_id, encoding.bigint(before.time_ms)]
        yield [(self._bound(self._select_earlier, values), state.add_rows)]

    def _prepare(self, settings: CassandraSettings) -> None:
        check_embedding_dim(self._session, settings.keyspace, self._embedding_dim)
        super()._prepare(settings)
        self._select_earlier = self._session.prepare(
            "SELECT to_unix_timestamp(window_end) AS window_end_ms, (text)'', active_rules"
            f" FROM {settings.keyspace}.profile_delta"
            " WHERE user_id = ? AND window_end < ? LIMIT 1"
        )
        profile_ttl_s = settings.profile_ttl_s
        self._insert_profile = self._prepare_insert(settings, USER_PROFILE, profile_ttl_s)
        self._insert_delta = self._prepare_insert(settings, PROFILE_DELTA, settings.delta_ttl_s)
        self._insert_lookalike = self._prepare_insert(settings, USER_LOOKALIKE, profile_ttl_s)
        self._insert_sums = self._prepare_insert(settings, LATER_SUMS, profile_ttl_s)
        self._select_sums = self._session.prepare(
            f"SELECT to_unix_timestamp(window_end), sums FROM {settings.keyspace}.later_sums"
            " WHERE user_id = ? AND window_end < ? LIMIT 1"
        )

        self._membership_tables = MembershipTables(self._session, settings)

    def memberships(self, user_ids: Iterable[str]) -> dict[str, Memberships]:
        return self._membership_tables.memberships(self._reads, user_ids)

    def stored_changes(self, keys: Iterable[ChangeKey]) -> dict[ChangeKey, Membership]:
        return self._membership_tables.stored_changes(self._reads, keys)

    def later_sums(self, keys: Sequence[SumsKey]) -> list[StoredSums | None]:
        found: list[list[tuple[int, bytes]]] = [[] for _ in keys]
        for key, rows in zip(keys, found, strict=True):
            values = [key.user_id.encode(), encoding.bigint(key.window_end_ms)]
            self._reads.submit(self._bound(self._select_sums, values), rows.extend)
        self._reads.drain()
        return [StoredSums(rows[0][0], decode_sums(rows[0][1])) if rows else None for rows in found]

    def write(self, rows: Sequence[ProfileRow]) -> None:
        super().write(rows)
        writes = [write for row in rows for write in row.memberships]
        self._writer.send(self._membership_tables.member_partitions(writes))

    def _partitions(self, rows: Sequence[ProfileRow]) -> list[Partition]:
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
                writes += self._membership_tables.user_writes(memberships.pop(row.user_id, ()))
            if row.write_lookalike:
                writes.append((self._insert_lookalike, lookalike))
            elif row.index_segments:
                user_id, _, segments, _, time = lookalike
                values = [user_id, UNSET_VALUE, segments, UNSET_VALUE, time]
                writes.append((self._insert_lookalike, values))
            if row.later_sums is not None:
                writes.append((self._insert_sums, encode_sums(row)))
            writes += self._flag_writes(row)
            partitions.append(Partition(key, writes))
        return partitions


def open_profile_sink(settings: Settings, embedding_dim: int) -> CassandraProfileSink:
    """Opens the sink of a worker. Raises like CassandraProfileSink."""
    return CassandraProfileSink(settings.cassandra, embedding_dim)
