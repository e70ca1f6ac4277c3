"""The Cassandra side of a sweep: profiles, memberships, and the sweep's own state."""

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import orjson
from cassandra.cluster import Session

from liveprofile.attributes.table import AttributeTable
from liveprofile.errors import ServiceError
from liveprofile.rows.users import SEGMENT_SIZE
from liveprofile.segments.membership import Membership, Memberships, MembershipWrite, stored_change
from liveprofile.segments.segments import SegmentSet
from liveprofile.segments.stored_profiles import (
    ProfilePage,
    read_profiles,
    scan_profiles,
    with_attributes,
)
from liveprofile.settings import CassandraSettings
from liveprofile.storage.cql import execute, from_ms, now_ms, read, read_pages
from liveprofile.storage.queries import TOKEN_MIN
from udfs.cassandra.batch_writer import BatchWriter, Partition
from udfs.cassandra.executor import StatementExecutor
from udfs.cassandra.memberships import SELECTED, MembershipTables, add_rows, in_statements

LEASE_S = 60.0  # a sweep that has not stored its position for so long can be taken over
PAGE_USERS = 2_000
_NAME = "last"


class SweepState(NamedTuple):
    """What is stored of a sweep, so that another process can go on with it."""

    sweep: str
    time_ms: int
    version: str  # of the definitions at its start
    position: int = TOKEN_MIN  # all users up to this token are done
    pending: int = TOKEN_MIN  # changes may be stored of users up to this token
    users: int = 0  # up to `position`, like `members`
    members: dict[str, int] = {}  # noqa: RUF012 (by segment; never changed in place)
    known_definitions: bool = False  # the sweep before had the same ones


class SweepTakenOverError(ServiceError):
    """Another process goes on with the sweep."""


class CassandraSweepStore:
    """Cassandra, as far as a sweep needs it. `claim` comes first. Raises ServiceError."""

    def __init__(
        self,
        session: Session,
        settings: CassandraSettings,
        segments: SegmentSet,
        *,
        page_users: int = PAGE_USERS,
        lease_s: float = LEASE_S,
    ):
        self._session, self._segments = session, segments
        self._page_users, self._lease_s = page_users, lease_s
        self._ttl_s = settings.flag_ttl_s
        self._owner = uuid.uuid4().hex
        self._tables = MembershipTables(session, settings)
        self._writer = BatchWriter(session, settings)
        self._attributes = AttributeTable(session, settings) if segments.attributes else None
        self._reads = StatementExecutor(session, settings, "read")
        self._select_ends = session.prepare(
            "SELECT user_id, to_unix_timestamp(window_end) FROM user_profile WHERE user_id IN ?"
        )
        between = "WHERE token(user_id) > ? AND token(user_id) <= ?"
        self._select_memberships = session.prepare(
            f"SELECT user_id, segment, {SELECTED} FROM user_segment {between}"
        )
        self._select_changes = session.prepare(
            f"SELECT user_id, segment, {SELECTED} FROM segment_change {between}"
        )
        self._insert_size = session.prepare(SEGMENT_SIZE.insert("?"))

    def claim(self, time_ms: int) -> SweepState:
        """Starts a sweep at `time_ms`, or goes on with one whose process has ended.

        Raises ServiceError if another process sweeps.
        """
        query = (
            "SELECT owner, to_unix_timestamp(lease_until) AS lease_until_ms, state, finished"
            " FROM segment_sweep WHERE name = %s"
        )
        row, version = read(self._session, query, (_NAME,)).one(), self._segments.version
        last = None if row is None else SweepState(**orjson.loads(row.state))
        if last is None or row.finished:
            known = last is not None and last.version == version
            state = SweepState(uuid.uuid4().hex[:12], time_ms, version, known_definitions=known)
        elif row.lease_until_ms > now_ms():
            seconds = (row.lease_until_ms - now_ms()) / 1_000
            raise ServiceError(
                f"another process sweeps the segments. If it has ended, wait {seconds:.0f} s"
            )
        else:
            known = last.known_definitions and last.version == version
            state = last._replace(known_definitions=known)
        self._store(state, None if row is None else row.owner)
        return state

    def pages(self, after_token: int) -> Iterator[ProfilePage]:
        pages = scan_profiles(self._session, after_token, self._page_users)
        if self._attributes is None:
            return pages
        return with_attributes(pages, self._attributes, after_token)

    def profiles(self, user_ids: Sequence[str]) -> ProfilePage | None:
        page = read_profiles(self._session, user_ids)
        if page is None or self._attributes is None:
            return page
        return page._replace(statements=self._attributes.read(page.user_ids))

    def window_ends_ms(self, user_ids: Sequence[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for statement in in_statements(self._select_ends, user_ids):
            self._reads.submit(statement, found.update)
        self._reads.drain()
        return {user_id: end_ms for user_id, end_ms in found.items() if end_ms is not None}

    def memberships_between(self, after_token: int, until_token: int) -> dict[str, Memberships]:
        found: dict[str, Memberships] = {}
        add_rows(
            found, read_pages(self._session, self._select_memberships, (after_token, until_token))
        )
        return found

    def memberships(self, user_ids: Sequence[str]) -> dict[str, Memberships]:
        return self._tables.memberships(self._reads, user_ids)

    def changes_between(
        self, sweep: str, after_token: int, until_token: int
    ) -> list[MembershipWrite]:
        rows = read_pages(self._session, self._select_changes, (after_token, until_token))
        found = []
        for user_id, segment_id, *values in rows:
            change = None if None in values else Membership(*values)
            if change is not None and change.sweep == sweep:
                found.append(stored_change(user_id, segment_id, change))
        return found

    def write(self, writes: Sequence[MembershipWrite]) -> None:
        by_user: dict[str, list[MembershipWrite]] = {}
        for write in writes:
            by_user.setdefault(write.user_id, []).append(write)
        self._writer.send(
            [
                Partition(user_id.encode(), self._tables.user_writes(of_user))
                for user_id, of_user in by_user.items()
            ]
        )
        self._writer.send(self._tables.member_partitions(writes))
        self._writer.drain()

    def advance(self, state: SweepState) -> None:
        self._store(state, self._owner)

    def finish(self, state: SweepState) -> None:
        """Stores the sizes of all segments, and that the sweep has ended."""
        moment = from_ms(state.time_ms)
        for name, members in state.members.items():
            values = (name, moment, members, state.users)
            write_time_us = time.time_ns() // 1_000
            execute(self._session, self._insert_size, (*values, write_time_us, self._ttl_s))
        self._store(state, self._owner, finished=True)

    def _store(self, state: SweepState, owner: str | None, finished: bool = False) -> None:
        """Stores the state if `owner` still owns the row; None: if there is no row."""
        lease_ms = 0 if finished else now_ms() + round(self._lease_s * 1_000)
        text = orjson.dumps(state._asdict()).decode()
        applied = execute(
            self._session,
            f"UPDATE segment_sweep USING TTL {self._ttl_s} SET owner = %s, lease_until = %s,"
            " state = %s, finished = %s WHERE name = %s IF owner = %s",
            (self._owner, from_ms(lease_ms), text, finished, _NAME, owner),
        ).was_applied
        if not applied:
            raise SweepTakenOverError("another process has taken over the sweep of the segments")
