"""Which windows of a user a correction changes, and how it recomputes them. Pure.

A user's chain is all of the user's windows with the late events in them, in time order. Its
windows have a revision: the number of late events in the chain up to them. The job's own window
has revision 0. So each further late event raises the revision of its window and of all later
ones, and the same late events give the same revisions.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from liveprofile.attributes.statements import Statement
from liveprofile.features import baselines
from liveprofile.rules.flags import PastFlags, RowPosition
from liveprofile.rules.rules import RuleSet
from liveprofile.segments.membership import ChangeKey, Membership, Memberships
from liveprofile.wire import window_events
from offline.late_windows.late_events import Position
from udfs.profile.batch import ProfileBatch, SumsKey
from udfs.profile.rows import ProfileRow
from udfs.profile.stored_users import StoredUsers

# Of the columns of a batch that are arrays.
_DTYPES = {
    "window_start_ms": np.int64,
    "window_end_ms": np.int64,
    "added": np.float64,
    "sums": np.float64,
}
_EVENTS = list(baselines.COLUMNS).index("events")


class ChainWindow(NamedTuple):
    """A window of a chain: a row of the profile pipeline's input."""

    row: Mapping[str, Any]  # liveprofile.wire.training_rows.PROFILE_INPUT; empty without revision
    end_ms: int
    own_late: int  # late events in it
    revision: int  # late events in it and in earlier windows
    events_total: int  # of the user up to it


class StoredWindow(NamedTuple):
    """What profile_delta has of a window."""

    end_ms: int
    revision: int  # 0: the job's
    events_total: int
    active_rules: frozenset[str]


class StoredRuleFlag(NamedTuple):
    """What risk_flag has of a window's flag."""

    rule_id: str
    end_ms: int
    rule_version: int | None
    correction: str  # "", ADDED, WITHDRAWN or KEPT


class StoredUser(NamedTuple):
    """What is stored of a user; `windows` from the reopened one on, and the one before it."""

    windows: Mapping[int, StoredWindow]  # by end
    flags: Sequence[StoredRuleFlag]
    profile: tuple[int, int] | None  # its window's end, and the events up to it


class Plan(NamedTuple):
    """What a correction does with a chain."""

    recomputed: Sequence[ChainWindow]  # from the first changed window on
    changed: frozenset[int]  # ends of the windows that are stored
    merged: frozenset[str] = frozenset()  # other users whose rows are deleted after that


def read_chain(rows: Iterable[Mapping[str, Any]], late: Container[Position]) -> list[ChainWindow]:
    """The chain of a user. rows: in time order; late: the user's late events.

    Windows before the first late event are not recomputed: the chain has only their totals.
    """
    windows, revision = [], 0
    for row in rows:
        events = window_events.parse(row["events"])
        own_late = sum((int(event.partition), int(event.offset)) in late for event in events)
        revision += own_late
        windows.append(
            ChainWindow(
                row if revision else {},
                row["window_end_ms"],
                own_late,
                revision,
                events_total(row),
            )
        )
    return windows


def events_total(row: Mapping[str, Any]) -> int:
    """The events of the user up to a row of liveprofile.wire.training_rows.PROFILE_INPUT."""
    return round(row["sums"][_EVENTS])


def is_complete(chain: Sequence[ChainWindow], stored: StoredUser, closed_ms: int) -> bool:
    """Whether the chain has the same events as what is stored of its closed windows, besides late
    ones.

    If not, earlier events of the user have expired, or the job has decided otherwise about some
    (such as a copy after `state.dedup_ttl_ms`). A recomputed profile would then be wrong. A user
    with a profile and without a closed window to compare with counts as incomplete.
    """
    by_end = {window.end_ms: window for window in chain}
    closed = [each for end_ms, each in stored.windows.items() if end_ms - 1 <= closed_ms]
    if not closed:
        if stored.profile is None:
            return True
        end_ms, total = stored.profile
        if end_ms - 1 > closed_ms or end_ms not in by_end:
            return False
        window = by_end[end_ms]
        return window.events_total - window.revision <= total <= window.events_total
    return all(
        each.end_ms in by_end
        and each.events_total
        == by_end[each.end_ms].events_total - by_end[each.end_ms].revision + each.revision
        for each in closed
    )


def is_complete_profile(
    times_ms: Iterable[int], profile: tuple[int, int] | None, closed_ms: int
) -> bool:
    """Whether these are all events of another user's profile, which becomes part of a chain.

    times_ms: of the events that are known; profile: see StoredUser, None if there is none any more.
    """
    if profile is None:
        return True
    end_ms, total = profile
    return end_ms - 1 <= closed_ms and sum(time_ms < end_ms for time_ms in times_ms) == total


def reopened_ms(chain: Sequence[ChainWindow]) -> int | None:
    """The end of the window before the first with a late event; that of the first if none is."""
    before_ms = chain[0].end_ms if chain else None
    for window in chain:
        if window.revision:
            return before_ms
        before_ms = window.end_ms
    return None


def plan(chain: Sequence[ChainWindow], stored: StoredUser, closed_ms: int) -> Plan:
    """Finds the closed windows whose stored row lacks late events.

    closed_ms: windows that end by 1 ms after it are closed, and the job has stored them. A closed
    window without a row has one from now on if it has late events.
    """
    closed = [window for window in chain if window.end_ms - 1 <= closed_ms]
    changed = frozenset(
        window.end_ms
        for window in closed
        if (
            stored.windows[window.end_ms].revision < window.revision
            if window.end_ms in stored.windows
            else window.own_late
        )
    )
    first_ms = min(changed, default=None)
    recomputed = [] if first_ms is None else [each for each in closed if each.end_ms >= first_ms]
    return Plan(recomputed, changed)


def to_batch(rows: Sequence[Mapping[str, Any]]) -> ProfileBatch:
    """Rows of liveprofile.wire.training_rows.PROFILE_INPUT as `update_profile` receives them."""
    columns = {name: [row[name] for row in rows] for name in ProfileBatch._fields}
    arrays = {name: np.array(columns[name], dtype) for name, dtype in _DTYPES.items()}
    return ProfileBatch(**columns | arrays)


# Above the revisions of models and deployments, below the next window: the write time of a
# correction is later than those of the job's writes of the window and of earlier corrections.
FIRST_REVISION, LAST_REVISION = 990_000, 999_999
REASON, MERGED = "LATE_EVENTS", "MERGED"
ADDED, WITHDRAWN, KEPT = "ADDED", "WITHDRAWN", "KEPT"  # what a correction says of a flag


class Correction(NamedTuple):
    """A window as it is stored from now on.

    `row.flags` are the flags that are new; no alert is sent for them.
    """

    row: ProfileRow
    revision: int  # of the chain; row.revision orders the writes
    marks: Mapping[str, str]  # by rule: WITHDRAWN or KEPT, of flags that are stored
    corrected_at_ms: int
    reason: str = REASON


class RowCollector:
    """A ProfileWriter that keeps the rows of recomputed windows."""

    def __init__(self) -> None:
        self.rows: list[ProfileRow] = []

    def write(self, rows: Sequence[ProfileRow]) -> None:
        self.rows += rows

    def flush(self) -> None:
        """Nothing is under way."""


class RecomputedUsers:
    """The StoredUsers of recomputed windows.

    Flags and true rules of earlier windows are the stored ones, those of recomputed windows the
    recomputed ones. So a flag that was raised for a window is decided anew. Nobody was erased, and
    no alert is sent.

    stored: what is stored of users. recomputed: the windows so far.
    """

    def __init__(self, stored: StoredUsers, recomputed: RowCollector):
        self._stored, self._recomputed = stored, recomputed
        self.plans: Mapping[str, tuple[StoredUser, Plan]] = {}

    def statements(self, user_ids: Iterable[str]) -> dict[str, list[Statement]]:
        return self._stored.statements(user_ids)

    def memberships(self, user_ids: Iterable[str]) -> dict[str, Memberships]:
        return self._stored.memberships(user_ids)

    def past_flags(self, rows: Sequence[tuple[str, RowPosition]]) -> list[PastFlags]:
        return [self._past_flags(*row) for row in rows]

    def _past_flags(self, user_id: str, before: RowPosition) -> PastFlags:
        stored, plan = self.plans[user_id]
        first_ms = plan.recomputed[0].end_ms
        true_rules = {
            end_ms: window.active_rules
            for end_ms, window in stored.windows.items()
            if end_ms < first_ms
        }
        raised = {
            (flag.rule_id, RowPosition(flag.end_ms))
            for flag in stored.flags
            if flag.end_ms < first_ms and flag.correction != WITHDRAWN
        }
        for row in self._recomputed.rows:
            if row.user_id == user_id and row.window_end_ms < before.time_ms:
                true_rules[row.window_end_ms] = frozenset(row.active_rules)
                raised |= {(flag.rule_id, RowPosition(row.window_end_ms)) for flag in row.flags}
        if not true_rules:
            return PastFlags(raised=frozenset(raised))
        latest_ms = max(true_rules)
        return PastFlags(RowPosition(latest_ms), true_rules[latest_ms], frozenset(raised))

    def stored_changes(self, keys: Iterable[ChangeKey]) -> dict[ChangeKey, Membership]:
        return {}

    def later_sums(self, keys: Sequence[SumsKey]) -> list[None]:
        return [None] * len(keys)

    def snoozed(self, user_ids: Iterable[str]) -> dict[str, dict[str, int]]:
        return {user_id: {} for user_id in user_ids}


class RecomputedStore:
    """A ProfileStore for recomputed windows: reads of `stored` users, and keeps the rows."""

    def __init__(self, stored: StoredUsers):
        self.writer = RowCollector()
        self.users = RecomputedUsers(stored, self.writer)

    @property
    def rows(self) -> list[ProfileRow]:
        return self.writer.rows

    def begin(self, plans: Mapping[str, tuple[StoredUser, Plan]]) -> None:
        """Forgets the rows; the next ones are of these users."""
        self.writer.rows, self.users.plans = [], plans


def corrections_of(
    rows: Iterable[ProfileRow],
    stored: StoredUser,
    plan: Plan,
    rules: RuleSet,
    now_ms: int,
    reason: str = REASON,
) -> list[Correction]:
    """What is stored of a user's recomputed rows. rules: those of the recomputation."""
    windows = {window.end_ms: window for window in plan.recomputed}
    return [
        _correction(row, windows[row.window_end_ms], stored, rules, now_ms, reason)
        for row in rows
        if row.window_end_ms in plan.changed
    ]


def _correction(
    row: ProfileRow,
    window: ChainWindow,
    stored: StoredUser,
    rules: RuleSet,
    now_ms: int,
    reason: str,
) -> Correction:
    known = {flag.rule_id: flag for flag in stored.flags if flag.end_ms == row.window_end_ms}
    raised = {flag.rule_id for flag in row.flags}
    return Correction(
        row._replace(
            revision=min(FIRST_REVISION + window.revision, LAST_REVISION),
            flags=[flag for flag in row.flags if flag.rule_id not in known],
            memberships=(),
        ),
        window.revision,
        {
            rule_id: mark
            for rule_id, flag in known.items()
            if (mark := _mark(flag, rule_id in raised, rules))
        },
        now_ms,
        reason,
    )


def _mark(flag: StoredRuleFlag, is_raised: bool, rules: RuleSet) -> str:
    """What a correction says of a stored flag; "": nothing.

    The flag of a rule that is not in force any more, or in another version, is not judged.
    """
    if is_raised:
        return KEPT if flag.correction == WITHDRAWN else ""
    judged = any(
        rule.id == flag.rule_id and rule.version == flag.rule_version
        for rule in rules.evaluated("window")
    )
    return WITHDRAWN if judged and flag.correction != WITHDRAWN else ""
