"""A sweep: evaluates the segments of all stored profiles beside the running job.

Users enter and leave by the passage of time, and new or changed definitions apply to all users at
once instead of at each user's next window. Writes and events are those of the job.

Order of each page of profiles: store the changes, send their events, then store the position. A
sweep that is killed leaves its position and the end of the page in progress. The next one goes on
from there, and first stores and sends the changes in between again, with the same ids.

The job and a sweep may change the same user. So a sweep first announces itself in the topic of
definitions: workers then read memberships again for each window (MembershipPolicy). After a while
it reads again the users it has changed. If a window has come in between, it evaluates them again.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import NamedTuple

from cassandra.cluster import Session

from liveprofile.feeds.definition_topics import announce_sweep
from liveprofile.feeds.users import erasures_spec, follow, read_consents
from liveprofile.kafka import records
from liveprofile.segments.evaluation import Evaluation
from liveprofile.segments.membership import Memberships, MembershipWrite, change_event
from liveprofile.segments.segments import SegmentSet
from liveprofile.segments.stored_profiles import ProfilePage
from liveprofile.settings import Settings
from liveprofile.storage.queries import TOKEN_MAX
from liveprofile.wire.user_records import CONTENT_TYPE
from offline.sweep_changes import SweepPlan, leave, page_changes
from offline.sweep_store import CassandraSweepStore, SweepState
from udfs.cassandra.memberships import rewrite_after_ms

SETTLE_S = 6.0  # workers follow the topic of definitions within 5 seconds
RECHECK_S = 3.0  # longer than a worker takes from reading memberships to storing a batch


class _Changed(NamedTuple):
    """Users who were changed and are to be read again."""

    time_s: float  # when they were changed
    window_end_ms: dict[str, int]  # of the profile that was evaluated; -1: evaluate again anyway
    state: SweepState  # before these users


class SweepResult(NamedTuple):
    """What one process has done of a sweep. `state` is that of the whole sweep."""

    state: SweepState
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
        store: CassandraSweepStore,
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
        if state.pending > state.position:
            # Stored in user tables, perhaps not in segment_member, perhaps not sent.
            found = self._store.changes_between(state.sweep, state.position, state.pending)
            self._apply(found)
            self._keep({write.user_id: -1 for write in found}, state)
        for page in self._store.pages(state.position):
            self._store.advance(self._done(state)._replace(pending=page.last_token))
            state = self._sweep_page(page, state)
            self._recheck(time.monotonic() - self._recheck_s)
            self._on_page(state)
        self._store.advance(self._done(state)._replace(pending=TOKEN_MAX))
        self._leave_expired(self._store.memberships_between(state.position, TOKEN_MAX), state)
        while self._changed:
            time.sleep(max(0.0, self._changed[0].time_s + self._recheck_s - time.monotonic()))
            self._recheck(time.monotonic() - self._recheck_s)
        seconds = time.monotonic() - start_s
        return SweepResult(state, self._entered, self._left, seconds)

    def _done(self, state: SweepState) -> SweepState:
        """The state up to which nothing is left to do, users to read again included."""
        states = [state, *(changed.state for changed in self._changed)]
        return min(states, key=lambda one: one.position)

    def _sweep_page(self, page: ProfilePage, state: SweepState) -> SweepState:
        """Changes the memberships of a page's users. Returns the state after the page."""
        stored = self._store.memberships_between(state.position, page.last_token)
        evaluation = self._change(page, stored, state)
        known = set(page.user_ids)
        self._leave_expired(
            {user: rows for user, rows in stored.items() if user not in known}, state
        )
        return state._replace(
            position=page.last_token,
            users=state.users + len(page.user_ids),
            members={
                name: state.members.get(name, 0) + int(holds.sum())
                for name, holds in evaluation.members.items()
            },
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

    def _apply(self, found: Sequence[MembershipWrite]) -> None:
        is_erased = self._plan.is_erased
        writes = [
            each for each in found if not is_erased(each.user_id, each.membership.window_end_ms)
        ]
        if not writes:
            return
        self._store.write(writes)
        changes = [write for write in writes if write.is_change]
        # Changes that an earlier process has stored may be of users who have withdrawn since.
        may_announce = self._plan.may_announce
        self._send([each for each in changes if each.is_sent and may_announce(each.user_id)])
        entered = sum(write.membership.member for write in changes)
        self._entered += entered
        self._left += len(changes) - entered


def run_sweep(
    settings: Settings,
    session: Session,
    segments: SegmentSet,
    time_ms: int,
    *,
    settle_s: float = SETTLE_S,
    on_page: Callable[[SweepState], None] = lambda state: None,
    **store_options: float,
) -> SweepResult:
    """Sweeps all users, or goes on with a sweep whose process has ended, at that sweep's time.

    segments: those in force. settle_s: how long workers may take to see the announcement. If other
    definitions were in force at the start (`state.version`) than at the end, sweep again. Raises
    ServiceError.

    Changes of users who do not allow marketing now are stored and not sent, those of users whom an
    erasure deletes are neither.
    """
    consents, now_ms = read_consents(settings), round(time.time() * 1_000)
    store = CassandraSweepStore(session, settings.cassandra, segments, **store_options)
    state = store.claim(time_ms)
    announce_sweep(settings, state.sweep, sweeping=True)
    time.sleep(settle_s)

    def send(writes: Sequence[MembershipWrite]) -> None:
        if writes:
            topic, source = settings.topics.segment_changes, settings.job.event_source
            events = (
                (write.user_id.encode(), change_event(write, source), CONTENT_TYPE)
                for write in writes
            )
            records.send_all(settings, topic, events)

    with closing(follow(settings, erasures_spec(settings))) as erasures:
        length_ms = settings.window.length_ms
        plan = SweepPlan(
            state.sweep,
            state.time_ms,
            settings.state.decay_days,
            rewrite_after_ms(settings.cassandra),
            lambda user_id: consents.allowed(user_id, "marketing", now_ms),
            lambda user_id, end_ms: erasures.current().is_erased(user_id, end_ms - length_ms),
            state.known_definitions,
        )
        result = Sweep(store, send, segments, plan, on_page=on_page).run(state)
    announce_sweep(settings, state.sweep, sweeping=False)
    store.finish(result.state)
    return result
