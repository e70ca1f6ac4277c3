"""A sweep: evaluates the segments of all stored profiles beside the running job.

Users enter and leave by the passage of time, and new or changed definitions apply to all users at
once instead of at each user's next window. Writes and events are those of the job.

Order of each page of profiles: store the changes, send their events, then store the position. A
sweep that is killed leaves its position and the end of the page in progress. The next one goes on
from there, and first stores and sends the changes in between again, with the same ids.

The job and a sweep may change the same user. So a sweep first announces itself in the topic of
definitions: workers then read memberships again for each window (liveprofile/segments/policy.py).
After a while it reads again the users it has changed. If a window has come in between, it evaluates
them again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from liveprofile.segments.definitions import SegmentSet
from liveprofile.segments.evaluation import Evaluation
from liveprofile.segments.membership import Memberships, MembershipWrite
from liveprofile.segments.stored_profiles import ProfilePage
from liveprofile.segments.sweep_changes import SegmentCounts, SweepPlan, leave, page_changes
from liveprofile.storage.queries import TOKEN_MAX, TOKEN_MIN

SETTLE_S = 6.0  # workers follow the topic of definitions within 5 seconds
RECHECK_S = 3.0  # longer than a worker takes from reading memberships to storing a batch


class SweepState(NamedTuple):
    """What is stored of a sweep, so that another process can go on with it."""

    sweep: str
    time_ms: int
    version: str  # of the definitions at its start
    position: int = TOKEN_MIN  # all users up to this token are done
    pending: int = TOKEN_MIN  # changes may be stored of users up to this token
    users: int = 0  # up to `position`, like `overlaps`
    overlaps: dict[str, dict[str, int]] = {}  # noqa: RUF012 (never changed in place)
    known_definitions: bool = False  # the sweep before had the same ones


class SweepStore(Protocol):
    """Cassandra, as far as a sweep needs it. Every method raises ServiceError."""

    def pages(self, after_token: int) -> Iterator[ProfilePage]:
        """The stored profiles by ascending token."""

    def profiles(self, user_ids: Sequence[str]) -> ProfilePage | None:
        """The present profiles of these users, None if no user has one."""

    def window_ends_ms(self, user_ids: Sequence[str]) -> dict[str, int]:
        """The end of the last window of those of the users who have a profile."""

    def memberships_between(self, after_token: int, until_token: int) -> dict[str, Memberships]:
        """All memberships of users with a token in (after, until]."""

    def memberships(self, user_ids: Sequence[str]) -> dict[str, Memberships]:
        """The memberships of these users."""

    def changes_between(
        self, sweep: str, after_token: int, until_token: int
    ) -> list[MembershipWrite]:
        """The changes that the sweep has stored for users in (after, until], in order."""

    def write(self, writes: Sequence[MembershipWrite]) -> None:
        """Stores the writes and returns when they are acknowledged."""

    def advance(self, state: SweepState) -> None:
        """Stores the state. Raises ServiceError if another process has taken over the sweep."""


class _Changed(NamedTuple):
    """Users who were changed and are to be read again."""

    time_s: float  # when they were changed
    window_end_ms: dict[str, int]  # of the profile that was evaluated; -1: evaluate again anyway
    state: SweepState  # before these users


class SweepResult(NamedTuple):
    """What one process has done of a sweep. `state` and `counts` are those of the whole sweep."""

    state: SweepState
    counts: SegmentCounts
    entered: int
    left: int
    seconds: float


class Sweep:
    """Runs or goes on with one sweep.

    send: sends the events of changes and returns when Kafka has acknowledged them.
    on_page: called with the state after each page.
    """

    def __init__(
        self,
        store: SweepStore,
        send: Callable[[Sequence[MembershipWrite]], None],
        segments: SegmentSet,
        plan: SweepPlan,
        *,
        recheck_s: float = RECHECK_S,
        on_page: Callable[[SweepState], None] = lambda state: None,
    ):
        self._store, self._send = store, send
        self._segments, self._plan = segments, plan
        self._recheck_s, self._on_page = recheck_s, on_page
        self._changed: deque[_Changed] = deque()
        self._entered = self._left = 0

    def run(self, state: SweepState) -> SweepResult:
        """Sweeps from the state's position to the end. Raises ServiceError."""
        start_s = time.monotonic()
        counts = SegmentCounts(state.overlaps, state.users)
        if state.pending > state.position:
            # Stored in user tables, perhaps not in segment_member, perhaps not sent.
            found = self._store.changes_between(state.sweep, state.position, state.pending)
            self._apply(found)
            self._keep({write.user_id: -1 for write in found}, state)
        for page in self._store.pages(state.position):
            self._store.advance(self._done(state)._replace(pending=page.last_token))
            self._sweep_page(page, state, counts)
            state = state._replace(
                position=page.last_token, users=counts.users, overlaps=counts.copy()
            )
            self._recheck(time.monotonic() - self._recheck_s)
            self._on_page(state)
        self._store.advance(self._done(state)._replace(pending=TOKEN_MAX))
        self._leave_expired(self._store.memberships_between(state.position, TOKEN_MAX), state)
        while self._changed:
            time.sleep(max(0.0, self._changed[0].time_s + self._recheck_s - time.monotonic()))
            self._recheck(time.monotonic() - self._recheck_s)
        seconds = time.monotonic() - start_s
        return SweepResult(state, counts, self._entered, self._left, seconds)

    def _done(self, state: SweepState) -> SweepState:
        """The state up to which nothing is left to do, users to read again included."""
        states = [state, *(changed.state for changed in self._changed)]
        return min(states, key=lambda one: one.position)

    def _sweep_page(self, page: ProfilePage, state: SweepState, counts: SegmentCounts) -> None:
        """Changes the memberships of a page's users. state: before the page."""
        stored = self._store.memberships_between(state.position, page.last_token)
        evaluation = self._change(page, stored, state)
        counts.add(evaluation, len(page.user_ids))
        known = set(page.user_ids)
        self._leave_expired(
            {user: rows for user, rows in stored.items() if user not in known}, state
        )

    def _change(
        self, page: ProfilePage, stored: dict[str, Memberships], state: SweepState
    ) -> Evaluation:
        found = page_changes(page, stored, self._segments, self._plan)
        self._apply(found.writes)
        changed = {write.user_id for write in found.writes if write.is_change}
        window_ends_ms = zip(page.user_ids, page.window_end_ms.tolist(), strict=True)
        evaluated = {user: end_ms for user, end_ms in window_ends_ms if user in changed}
        self._keep(evaluated | dict.fromkeys(found.newer, -1), state)
        return found.evaluation

    def _leave_expired(self, stored: dict[str, Memberships], state: SweepState) -> None:
        """Users whose profile has expired leave their segments."""
        users = [user for user, rows in stored.items() if any(row.member for row in rows.values())]
        if not users:
            return
        present = self._store.window_ends_ms(users)  # some may be new since the page was read
        writes = [
            leave(user, segment_id, row, "expired", self._plan)
            for user in users
            if user not in present
            for segment_id, row in stored[user].items()
        ]
        self._apply([write for write in writes if write is not None])
        self._keep(dict.fromkeys(present, -1), state)

    def _keep(self, evaluated: dict[str, int], state: SweepState) -> None:
        if evaluated:
            self._changed.append(_Changed(time.monotonic(), evaluated, state))

    def _recheck(self, until_s: float) -> None:
        """Evaluates again the users changed before `until_s` who have a new window since then."""
        while self._changed and self._changed[0].time_s <= until_s:
            changed = self._changed[0]
            ends_ms = self._store.window_ends_ms(list(changed.window_end_ms))
            newer = [user for user, ms in ends_ms.items() if ms > changed.window_end_ms[user]]
            page = self._store.profiles(newer) if newer else None
            if page is not None:
                stored = self._store.memberships(page.user_ids)
                self._change(page, stored, changed.state)
            self._changed.popleft()

    def _apply(self, writes: Sequence[MembershipWrite]) -> None:
        if writes:
            self._store.write(writes)
            self._send_changes(writes)

    def _send_changes(self, writes: Sequence[MembershipWrite]) -> None:
        changes = [write for write in writes if write.is_change]
        # Changes that an earlier process has stored may be of users who have withdrawn since.
        may_announce = self._plan.may_announce
        self._send([each for each in changes if each.is_sent and may_announce(each.user_id)])
        entered = sum(write.membership.member for write in changes)
        self._entered += entered
        self._left += len(changes) - entered
