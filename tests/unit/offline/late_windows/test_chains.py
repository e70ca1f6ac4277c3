"""Chains of windows with late events: which are recomputed, and what is stored of them."""

from collections.abc import Mapping, Sequence

import pytest

from liveprofile.features import baselines
from liveprofile.resources import product_path
from liveprofile.rules.flags import PastFlags, RowPosition
from liveprofile.rules.rules import read_rules
from liveprofile.settings import Settings
from liveprofile.wire.window_events import WindowEvent, join
from offline.late_windows.chains import (
    ADDED,
    FIRST_REVISION,
    KEPT,
    LAST_REVISION,
    WITHDRAWN,
    ChainWindow,
    Plan,
    RecomputedStore,
    StoredRuleFlag,
    StoredUser,
    StoredWindow,
    corrections_of,
    is_complete,
    is_complete_profile,
    plan,
    read_chain,
    reopened_ms,
)
from tests.support.memory.sinks import MemoryProfileSink
from tests.support.rows.profile_rows import flag, profile_row
from udfs.cassandra.encoding import write_time_us

LATE = {(0, 3), (0, 9)}
CLOSED_MS = 399  # four windows of 100 ms


def row(number: int, offsets: Sequence[int], total: int) -> dict[str, object]:
    """The window number `number` with the events at these offsets; total: events up to it."""
    sums = [0.0] * len(baselines.COLUMNS)
    sums[1] = float(total)
    end_ms = 100 * number
    return {
        "user_id": "u",
        "window_start_ms": end_ms - 100,
        "window_end_ms": end_ms,
        "events": join(WindowEvent(end_ms - 50, "a", "0", str(offset), "{}") for offset in offsets),
        "history": f"history {number}",
        "added": [0.0] * len(sums),
        "sums": sums,
        "purchases": str(number),
    }


# The job had windows 1, 3 and 4. Window 2 has only a late event, window 3 one more.
ROWS = [row(1, [0, 1], 2), row(2, [3], 3), row(3, [2, 9], 5), row(4, [4], 6)]
CHAIN = read_chain(ROWS, LATE)


def stored(totals: Mapping[int, tuple[int, int]], profile: tuple[int, int] | None = None):
    """totals: by number of a window, its revision and the events up to it."""
    windows = {
        100 * number: StoredWindow(100 * number, revision, total, frozenset())
        for number, (revision, total) in totals.items()
    }
    return StoredUser(windows, [], profile)


JOB = stored({1: (0, 2), 3: (0, 3), 4: (0, 4)}, (400, 4))


def test_revision_is_the_number_of_late_events_so_far():
    found = [(window.end_ms, window.own_late, window.revision) for window in CHAIN]
    assert found == [(100, 0, 0), (200, 1, 1), (300, 1, 2), (400, 0, 2)]
    assert reopened_ms(CHAIN) == 100
    assert reopened_ms(read_chain(ROWS, {(0, 0)})) == 100
    assert reopened_ms(read_chain(ROWS, {(5, 5)})) is None


@pytest.mark.parametrize(
    ("user", "closed_ms", "recomputed", "changed"),
    [
        (JOB, CLOSED_MS, [200, 300, 400], [200, 300, 400]),
        # The job has not closed the last window.
        (JOB, CLOSED_MS - 1, [200, 300], [200, 300]),
        # A window without a row and without late events stays without one.
        (stored({1: (0, 2), 3: (0, 3)}), CLOSED_MS, [200, 300, 400], [200, 300]),
        # All are corrected.
        (stored({1: (0, 2), 2: (1, 3), 3: (2, 5), 4: (2, 6)}), CLOSED_MS, [], []),
        # A run that was killed goes on with the first window that is not stored.
        (stored({1: (0, 2), 2: (1, 3), 3: (0, 3), 4: (2, 6)}), CLOSED_MS, [300, 400], [300]),
        (stored({1: (0, 2), 2: (1, 3), 3: (1, 4), 4: (1, 5)}), CLOSED_MS, [300, 400], [300, 400]),
    ],
)
def test_closed_windows_whose_row_lacks_late_events_are_changed(
    user: StoredUser, closed_ms: int, recomputed: list[int], changed: list[int]
) -> None:
    found = plan(CHAIN, user, closed_ms)
    assert [window.end_ms for window in found.recomputed] == recomputed
    assert sorted(found.changed) == changed


@pytest.mark.parametrize(
    ("user", "complete"),
    [
        (JOB, True),
        (stored({2: (1, 3), 3: (2, 5)}), True),
        (stored({}), True),
        (stored({}, (400, 4)), True),  # the job's profile; the deltas have expired
        (stored({}, (400, 6)), True),  # a corrected one
        # Windows that the job has closed since the records were read are not compared.
        (stored({1: (0, 2), 5: (0, 9)}), True),
        (stored({1: (0, 3)}), False),  # an earlier event is missing
        (stored({3: (1, 5)}), False),
        (stored({1: (0, 2), 3: (0, 5)}), False),
        (stored({1: (0, 2)} | {0: (0, 1)}), False),  # a window before all of the chain
        (stored({}, (50, 4)), False),
        (stored({}, (400, 9)), False),
        (stored({}, (500, 6)), False),  # nothing to compare with yet
    ],
)
def test_history_is_complete_with_all_events_that_the_job_has_seen(
    user: StoredUser, complete: bool
) -> None:
    assert is_complete(CHAIN, user, CLOSED_MS) is complete


@pytest.mark.parametrize(
    ("times_ms", "profile", "complete"),
    [
        ([10, 150, 199], (200, 3), True),
        ([10, 150, 250], (200, 2), True),  # of a window after the profile's
        ([10, 150], (200, 3), False),  # one has expired
        ([10], (500, 1), False),  # its window is open
        ([10], None, True),  # its rows are deleted already
    ],
)
def test_profile_that_becomes_part_of_another_needs_all_of_its_events(
    times_ms: list[int], profile: tuple[int, int] | None, complete: bool
) -> None:
    assert is_complete_profile(times_ms, profile, CLOSED_MS) is complete


RULES = read_rules(product_path(Settings().rules))
RULE = RULES.evaluated("window")[0]
NOW_MS = 7
FIRST, SECOND, THIRD = (profile_row(window=window).window_end_ms for window in range(3))


def flagged(*flags: StoredRuleFlag, true: bool = False) -> StoredUser:
    """A user with two windows of the job; true: whether the rule was true in the first."""
    rules = frozenset([RULE.id] if true else [])
    windows = {end_ms: StoredWindow(end_ms, 0, 1, rules) for end_ms in (FIRST, SECOND)}
    return StoredUser(windows, flags, None)


def flag_of(end_ms: int, correction: str = "", version: int = RULE.version) -> StoredRuleFlag:
    return StoredRuleFlag(RULE.id, end_ms, version, correction)


PLAN = Plan(
    [ChainWindow({}, end_ms, 0, revision, 9) for end_ms, revision in ((SECOND, 1), (THIRD, 2))],
    frozenset({SECOND}),
)


@pytest.mark.parametrize(
    ("known", "raised", "mark"),
    [
        (flag_of(SECOND), False, WITHDRAWN),
        (flag_of(SECOND, ADDED), False, WITHDRAWN),
        (flag_of(SECOND, WITHDRAWN), False, None),
        # The flag of another version of its rule, or of a rule that is gone, is not judged.
        (flag_of(SECOND, version=RULE.version + 1), False, None),
        (StoredRuleFlag("gone_rule", SECOND, 1, ""), False, None),
        (flag_of(SECOND), True, None),
        (flag_of(SECOND, WITHDRAWN), True, KEPT),
    ],
)
def test_stored_flag_is_marked_if_the_correction_decides_otherwise(
    known: StoredRuleFlag, raised: bool, mark: str | None
) -> None:
    row = profile_row(window=1, flags=[flag(RULE.id)] if raised else [])
    [found] = corrections_of([row, profile_row(window=2)], flagged(known), PLAN, RULES, NOW_MS)
    assert found.marks == ({known.rule_id: mark} if mark else {})
    assert not found.row.flags  # none is new


def test_correction_is_written_after_the_job_and_before_the_next_window():
    [found] = corrections_of([profile_row(window=1)], flagged(), PLAN, RULES, NOW_MS)
    assert (found.revision, found.corrected_at_ms) == (1, NOW_MS)
    assert found.row.revision == FIRST_REVISION + 1
    many = Plan([ChainWindow({}, SECOND, 0, 10**6, 9)], frozenset({SECOND}))
    [last] = corrections_of([profile_row(window=1)], flagged(), many, RULES, NOW_MS)
    assert last.row.revision == LAST_REVISION
    assert write_time_us(last.row) < (SECOND + 1_000) * 1_000


def past(user: StoredUser, at_ms: int, *rows: object) -> PastFlags:
    recomputed = RecomputedStore(MemoryProfileSink())
    recomputed.begin({"u": (user, PLAN)})
    recomputed.writer.write(rows)
    [found] = recomputed.users.past_flags([("u", RowPosition(at_ms))])
    return found


def known(latest_ms: int, true: bool, raised_ms: int | None) -> PastFlags:
    rules = frozenset({RULE.id} if true else ())
    raised = set() if raised_ms is None else {(RULE.id, RowPosition(raised_ms))}
    return PastFlags(RowPosition(latest_ms), rules, frozenset(raised))


def test_withdrawn_flag_starts_no_cool_down():
    user = flagged(flag_of(FIRST, WITHDRAWN))
    assert past(user, SECOND) == known(FIRST, False, None)


def test_flags_of_changed_windows_are_decided_anew():
    user = flagged(flag_of(SECOND), flag_of(THIRD))
    assert past(user, SECOND) == known(FIRST, False, None)
    again = profile_row(window=1, active_rules=[RULE.id], flags=[flag(RULE.id)])
    assert past(user, THIRD, again) == known(SECOND, True, SECOND)
    others = profile_row("other", window=1, active_rules=[RULE.id])
    assert past(user, THIRD, others) == known(FIRST, False, None)
