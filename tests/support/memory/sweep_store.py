"""A CassandraSweepStore in memory, whose process can be killed before any of its steps."""

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace

import orjson

from liveprofile.attributes.statements import Statement
from liveprofile.segments.features import PROFILE_FEATURES
from liveprofile.segments.membership import Memberships, MembershipWrite, stored_change
from liveprofile.segments.stored_profiles import ProfilePage, profile_page
from offline.sweep_store import SweepState
from tests.support.memory.memberships import MemoryMemberships


class KilledError(Exception):
    """The process has ended."""


def stored_profile(
    user_id: str,
    token: int,
    window_end_ms: int,
    interests: dict[str, float] | None = None,
    used_coupon: bool = False,
    **features: float | None,
) -> object:
    """A row of user_profile."""
    profile = {
        "features": dict.fromkeys(PROFILE_FEATURES, 1.0) | features,
        "used_coupon": used_coupon,
        "interests": interests or {},
        "category_affinity": {},
    }
    return SimpleNamespace(
        user_id=user_id,
        user_token=token,
        window_end_ms=window_end_ms,
        write_time_us=window_end_ms * 1_000 + 1,
        profile=orjson.dumps(profile).decode(),
    )


class MemorySweepStore:
    """Users are sorted by the tokens of their profiles."""

    def __init__(self, segments: MemoryMemberships, page_users: int = 3):
        self.segments, self._page_users = segments, page_users
        self.rows: dict[str, SimpleNamespace] = {}
        self.tokens: dict[str, int] = {}
        self.statements: dict[str, list[Statement]] = {}
        self.state: SweepState | None = None
        self.step: Callable[[str], None] = lambda name: None  # called before each step

    def put(self, row: SimpleNamespace) -> None:
        self.rows[row.user_id] = row
        self.tokens[row.user_id] = row.user_token

    def pages(self, after_token: int) -> Iterator[ProfilePage]:
        while True:
            self.step("page")
            rows = sorted(
                (row for row in self.rows.values() if row.user_token > after_token),
                key=lambda row: row.user_token,
            )[: self._page_users]
            if not rows:
                return
            after_token = rows[-1].user_token
            yield self._page(rows)

    def profiles(self, user_ids: Sequence[str]) -> ProfilePage | None:
        rows = [self.rows[user] for user in user_ids if user in self.rows]
        return self._page(rows) if rows else None

    def _page(self, rows: Sequence[SimpleNamespace]) -> ProfilePage:
        return profile_page(rows)._replace(statements=dict(self.statements))

    def window_ends_ms(self, user_ids: Sequence[str]) -> dict[str, int]:
        return {user: self.rows[user].window_end_ms for user in user_ids if user in self.rows}

    def memberships_between(self, after_token: int, until_token: int) -> dict[str, Memberships]:
        return self.memberships(self._users(after_token, until_token))

    def memberships(self, user_ids: Sequence[str]) -> dict[str, Memberships]:
        self.step("memberships")
        return {user: rows for user, rows in self.segments.memberships(user_ids).items() if rows}

    def changes_between(
        self, sweep: str, after_token: int, until_token: int
    ) -> list[MembershipWrite]:
        users = set(self._users(after_token, until_token))
        return [
            stored_change(user_id, segment_id, change)
            for (user_id, segment_id), changes in self.segments.changes.items()
            for change in changes.values()
            if user_id in users and change.sweep == sweep
        ]

    def write(self, writes: Sequence[MembershipWrite]) -> None:
        for write in writes:
            self.segments.write_user(write)
            self.step("write")
            self.segments.write_member(write)
        self.step("written")

    def advance(self, state: SweepState) -> None:
        self.step("advance")
        self.state = state

    def _users(self, after_token: int, until_token: int) -> list[str]:
        return [user for user, token in self.tokens.items() if after_token < token <= until_token]
