from __future__ import annotations

import pytest

from liveprofile.resources import product_path
from liveprofile.rules.flags import FlagHistory, FlagQuery, RowPosition
from liveprofile.rules.rules import read_rules
from liveprofile.settings import Settings
from offline.late_windows.chains import (
    ADDED,
    FIRST_REVISION,
    KEPT,
    LAST_REVISION,
    WITHDRAWN,
    ChainWindow,
    Plan,
    RecomputedRows,
    StoredRuleFlag,
    StoredUser,
    StoredWindow,
    corrections_of,
)
from tests.support.memory.sinks import MemoryProfileSink
from tests.support.rows.profile_rows import flag, profile_row
from udfs.cassandra.encoding import write_time_us

RULES = read_rules(product_path(Settings().rules))
RULE = RULES.evaluated("window")[0]
NOW_MS = 7
FIRST, SECOND, THIRD = (profile_row(window=window).window_end_ms for window in range(3))


def stored(*flags: StoredRuleFlag, true: bool = False) -> StoredUser:
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
    [found] = corrections_of([row, profile_row(window=2)], stored(known), PLAN, RULES, NOW_MS)
    assert found.marks == ({known.rule_id: mark} if mark else {})
    assert not found.row.flags  # none is new


def test_correction_is_written_after_the_job_and_before_the_next_window():
    [found] = corrections_of([profile_row(window=1)], stored(), PLAN, RULES, NOW_MS)
    assert (found.revision, found.corrected_at_ms) == (1, NOW_MS)
    assert found.row.revision == FIRST_REVISION + 1
    many = Plan([ChainWindow({}, SECOND, 0, 10**6, 9)], frozenset({SECOND}))
    [last] = corrections_of([profile_row(window=1)], stored(), many, RULES, NOW_MS)
    assert last.row.revision == LAST_REVISION
    assert write_time_us(last.row) < (SECOND + 1_000) * 1_000


def history(user: StoredUser, at_ms: int, *rows: object) -> FlagHistory:
    recomputed = RecomputedRows(MemoryProfileSink())
    recomputed.begin({"u": (user, PLAN)})
    recomputed.write(rows)
    [found] = recomputed.flag_history([FlagQuery("u", RULE.id, at_ms)])
    return found


def test_withdrawn_flag_starts_no_cool_down():
    user = stored(flag_of(FIRST, WITHDRAWN))
    assert history(user, SECOND) == FlagHistory(RowPosition(FIRST), False, None)


def test_flags_of_changed_windows_are_decided_anew():
    user = stored(flag_of(SECOND), flag_of(THIRD))
    assert history(user, SECOND) == FlagHistory(RowPosition(FIRST), False, None)
    again = profile_row(window=1, active_rules=[RULE.id], flags=[flag(RULE.id)])
    assert history(user, THIRD, again) == FlagHistory(RowPosition(SECOND), True, SECOND)
    others = profile_row("other", window=1, active_rules=[RULE.id])
    assert history(user, THIRD, others) == FlagHistory(RowPosition(FIRST), False, None)
