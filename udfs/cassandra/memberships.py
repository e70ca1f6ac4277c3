"""Statements on the tables of segment members: writes as encoded values, and reads."""

import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from cassandra.cluster import Session
from cassandra.query import BoundStatement, PreparedStatement

from liveprofile.rows.table import Table
from liveprofile.rows.users import (
    SEGMENT_CHANGE,
    SEGMENT_MEMBER,
    USER_SEGMENT,
    segment_bucket,
)
from liveprofile.segments.membership import ChangeKey, Membership, Memberships, MembershipWrite
from liveprofile.settings import MAX_TTL_S, CassandraSettings
from liveprofile.units import SECOND_MS
from udfs.cassandra.batch_writer import Partition, Write, bound_statement
from udfs.cassandra.encoding import (
    Values,
    bigint,
    encode_row,
    partition_key,
    text_list,
)
from udfs.cassandra.executor import StatementExecutor

READ_USERS = 50  # in one SELECT

SELECTED = (
    "member, to_unix_timestamp(since), number, announced, to_unix_timestamp(window_end), version,"
    " sweep, reason, WRITETIME(member)"
)


def membership_ttl_s(settings: CassandraSettings) -> int:
    """The TTL of a membership: twice that of a profile.

    It is written again when it is half of a profile's TTL old, so it outlives the profile. A sweep
    then finds it and reports that the user has left.
    """
    return min(2 * settings.profile_ttl_s, MAX_TTL_S)


def rewrite_after_ms(settings: CassandraSettings) -> int:
    """The age at which a membership is written again: half of a profile's TTL."""
    return settings.profile_ttl_s * SECOND_MS // 2


def in_statements(select: PreparedStatement, user_ids: Sequence[str]) -> Iterator[BoundStatement]:
    """SELECTs ... WHERE user_id IN ?, each of up to READ_USERS users."""
    for start in range(0, len(user_ids), READ_USERS):
        yield bound_statement(select, [text_list(user_ids[start : start + READ_USERS])])


class MembershipTables:
    """Prepared statements. Raises ServiceError or a driver's error if a table is missing."""

    def __init__(self, session: Session, settings: CassandraSettings):
        keyspace, ttl_s = settings.keyspace, membership_ttl_s(settings)

        def insert(table: Table, ttl_s: int) -> Any:
            return session.prepare(table.insert(ttl_s, keyspace))

        self._insert = insert(USER_SEGMENT, ttl_s)
        self._insert_change = insert(SEGMENT_CHANGE, settings.profile_ttl_s)
        self._insert_member = insert(SEGMENT_MEMBER, ttl_s)
        self._delete_member = session.prepare(
            f"DELETE FROM {keyspace}.segment_member USING TIMESTAMP ?"
            " WHERE segment = ? AND bucket = ? AND user_id = ?"
        )
        self._select = session.prepare(
            f"SELECT user_id, segment, {SELECTED} FROM {keyspace}.user_segment WHERE user_id IN ?"
        )
        self._select_changes = session.prepare(
            f"SELECT {SELECTED} FROM {keyspace}.segment_change"
            " WHERE user_id = ? AND segment = ? AND since >= ?"
        )

    def user_writes(self, writes: Iterable[MembershipWrite]) -> list[Write]:
        """The writes to tables that are keyed by the user."""
        found: list[Write] = []
        for write in writes:
            values = _encode(write)
            found.append((self._insert, values))
            if write.is_change:
                found.append((self._insert_change, values))
        return found

    def member_partitions(self, writes: Iterable[MembershipWrite]) -> list[Partition]:
        """The writes to segment_member, those of a partition side by side."""
        partitions = []
        for write in writes:
            key = [write.segment_id.encode(), struct.pack(">h", segment_bucket(write.user_id))]
            partitions.append(Partition(partition_key(*key), [self._member_write(write, key)]))
        return sorted(partitions, key=lambda partition: partition.key)

    def _member_write(self, write: MembershipWrite, columns: list[bytes]) -> Write:
        """columns: the values of the table's partition key."""
        key = [*columns, write.user_id.encode()]
        time = bigint(write.membership.write_time_us)
        if write.membership.member:
            return self._insert_member, [*key, bigint(write.membership.since_ms), time]
        return self._delete_member, [time, *key]

    def memberships(
        self, reads: StatementExecutor, user_ids: Iterable[str]
    ) -> dict[str, Memberships]:
        """The stored memberships of each user, by segment. Raises StoreError."""
        users = list(user_ids)
        found: dict[str, Memberships] = {user_id: {} for user_id in users}
        for statement in in_statements(self._select, users):
            reads.submit(statement, partial(add_rows, found))
        reads.drain()
        return found

    def stored_changes(
        self, reads: StatementExecutor, keys: Iterable[ChangeKey]
    ) -> dict[ChangeKey, Membership]:
        """The changes that the job has stored for these windows. Raises StoreError."""
        found: dict[ChangeKey, Membership] = {}

        def add(key: ChangeKey, rows: Iterable[Sequence[Any]]) -> None:
            changes = (Membership(*values) for values in rows if None not in values)
            for change in changes:
                if change.window_end_ms == key.window_end_ms and not change.sweep:
                    found.setdefault(key, change)

        for key in keys:
            values = [key.user_id.encode(), key.segment_id.encode(), bigint(key.window_end_ms)]
            reads.submit(bound_statement(self._select_changes, values), partial(add, key))
        reads.drain()
        return found


def add_rows(found: dict[str, Memberships], rows: Iterable[Sequence[Any]]) -> None:
    """Adds rows of user and segment with SELECTED to the memberships of each user."""
    for user_id, segment_id, *values in rows:
        if None not in values:  # a row that expires between two columns
            found.setdefault(user_id, {})[segment_id] = Membership(*values)


def _encode(write: MembershipWrite) -> Values:
    """Returns the values of user_segment and the write time."""
    *values, time_us = write.membership
    columns = USER_SEGMENT.columns.values()
    return encode_row(columns, (write.user_id, write.segment_id, *values), time_us)
