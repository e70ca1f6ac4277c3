"""What is stored of users, as far as new profiles depend on it: flags, memberships, sums."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
from cassandra.cluster import Session

from liveprofile.rules.flag_policy import PastFlagsReader
from liveprofile.rules.flags import RowPosition
from liveprofile.segments.membership import ChangeKey, Membership, MembershipReader, Memberships
from liveprofile.settings import CassandraSettings
from udfs.attribute_reads import StatementsReader
from udfs.cassandra import encoding
from udfs.cassandra.memberships import MembershipTables
from udfs.cassandra.users import CassandraUsers, Read, StoredState
from udfs.profile.batch import LaterSumsReader, StoredSums, SumsKey


class StoredUsers(PastFlagsReader, MembershipReader, StatementsReader, LaterSumsReader, Protocol):
    """Reads what is stored of users. All methods raise StoreError."""

    def snoozed(self, user_ids: Iterable[str]) -> dict[str, dict[str, int]]:
        """The snoozes of each user: {rule_id or ALL_RULES: end in ms of the wall clock}."""


class CassandraStoredUsers(CassandraUsers):
    """StoredUsers in Cassandra. For the arguments and errors see CassandraUsers."""

    def __init__(
        self,
        session: Session,
        settings: CassandraSettings,
        memberships: MembershipTables,
        flush: Callable[[], None],
    ):
        super().__init__(session, settings, flush)
        self._membership_tables = memberships
        self._select_earlier = session.prepare(
            "SELECT to_unix_timestamp(window_end) AS window_end_ms, (text)'', active_rules"
            f" FROM {settings.keyspace}.profile_delta"
            " WHERE user_id = ? AND window_end < ? LIMIT 1"
        )
        self._select_sums = session.prepare(
            f"SELECT to_unix_timestamp(window_end), sums FROM {settings.keyspace}.later_sums"
            " WHERE user_id = ? AND window_end < ? LIMIT 1"
        )

    def _latest_reads(
        self, user_id: bytes, before: RowPosition, state: StoredState
    ) -> Iterator[list[Read]]:
        values = [user_id, encoding.bigint(before.time_ms)]
        yield [(self._bound(self._select_earlier, values), state.add_rows)]

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
        return [_read_sums(*rows[0]) if rows else None for rows in found]


def _read_sums(window_end_ms: int, data: bytes) -> StoredSums:
    """data: of udfs.profile.rows.encode_sums."""
    return StoredSums(window_end_ms, tuple(np.frombuffer(data, ">f8").tolist()))
