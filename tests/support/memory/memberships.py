"""The tables of segment members in memory."""

from collections.abc import Iterable

from liveprofile.segments.membership import ChangeKey, Membership, Memberships, MembershipWrite


class MemoryMemberships:
    """user_segment, segment_change and segment_member with the semantics of USING TIMESTAMP."""

    def __init__(self) -> None:
        self.users: dict[str, Memberships] = {}
        self.changes: dict[tuple[str, str], dict[int, Membership]] = {}  # by `since`
        self.members: dict[str, dict[str, tuple[bool, int]]] = {}  # with write times
        self.reads = 0

    def memberships(self, user_ids: Iterable[str]) -> dict[str, Memberships]:
        self.reads += 1
        return {user_id: dict(self.users.get(user_id, {})) for user_id in user_ids}

    def stored_changes(self, keys: Iterable[ChangeKey]) -> dict[ChangeKey, Membership]:
        return {
            key: change
            for key in keys
            for change in self.changes.get((key.user_id, key.segment_id), {}).values()
            if (change.window_end_ms, change.sweep) == (key.window_end_ms, "")
        }

    def write(self, write: MembershipWrite) -> None:
        self.write_user(write)
        self.write_member(write)

    def write_user(self, write: MembershipWrite) -> None:
        membership = write.membership
        rows = self.users.setdefault(write.user_id, {})
        old = rows.get(write.segment_id)
        if old is None or old.write_time_us <= membership.write_time_us:
            rows[write.segment_id] = membership
        if write.is_change:
            changes = self.changes.setdefault((write.user_id, write.segment_id), {})
            changes[membership.since_ms] = membership

    def write_member(self, write: MembershipWrite) -> None:
        membership = write.membership
        users = self.members.setdefault(write.segment_id, {})
        _, time_us = users.get(write.user_id, (False, -1))
        if membership.write_time_us >= time_us:
            users[write.user_id] = (membership.member, membership.write_time_us)

    def members_of(self, segment_id: str) -> set[str]:
        return {user for user, (holds, _) in self.members.get(segment_id, {}).items() if holds}
