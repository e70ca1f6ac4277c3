"""Recomputes windows with the code of `update_profile`, and compares flags with stored ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from liveprofile.attributes.statements import Statement
from liveprofile.rules.flags import FlagHistory, FlagQuery, RowPosition
from liveprofile.rules.rules import RuleSet
from offline.late_windows.chains import ChainWindow, Plan, StoredRuleFlag, StoredUser
from udfs.attribute_reads import StatementReader
from udfs.profile.row import ProfileRow
from udfs.profile.sink import NullSink

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
    replaced_revision: int | None  # of the row that it replaces; None: there is none
    marks: Mapping[str, str]  # by rule: WITHDRAWN or KEPT, of flags that are stored
    corrected_at_ms: int
    reason: str = REASON


class RecomputedRows(NullSink):
    """Collects the rows of recomputed windows: a ProfileSink without tables.

    Flags and true rules of earlier windows are the stored ones, those of recomputed windows the
    recomputed ones. So a flag that was raised for a window is decided anew.
    """

    def __init__(self, statements: StatementReader):
        self.rows: list[ProfileRow] = []
        self._statements = statements
        self._users: Mapping[str, tuple[StoredUser, Plan]] = {}

    def begin(self, users: Mapping[str, tuple[StoredUser, Plan]]) -> None:
        """Forgets the rows; the next ones are of these users."""
        self.rows, self._users = [], users

    def statements(self, user_ids: Iterable[str]) -> dict[str, list[Statement]]:
        return self._statements.statements(user_ids)

    def flag_history(self, queries: Sequence[FlagQuery]) -> list[FlagHistory]:
        return [self._flag_history(query) for query in queries]

    def _flag_history(self, query: FlagQuery) -> FlagHistory:
        stored, plan = self._users[query.user_id]
        first_ms = plan.recomputed[0].end_ms
        true_rules = {
            end_ms: window.active_rules
            for end_ms, window in stored.windows.items()
            if end_ms < first_ms
        }
        raised = [
            flag.end_ms
            for flag in stored.flags
            if flag.rule_id == query.rule_id
            and flag.end_ms < first_ms
            and flag.correction != WITHDRAWN
        ]
        for row in self.rows:
            if row.user_id == query.user_id and row.window_end_ms < query.window_end_ms:
                true_rules[row.window_end_ms] = frozenset(row.active_rules)
                if any(flag.rule_id == query.rule_id for flag in row.flags):
                    raised.append(row.window_end_ms)
        latest_ms = max(true_rules, default=None)
        return FlagHistory(
            latest=None if latest_ms is None else RowPosition(latest_ms),
            was_true=latest_ms is not None and query.rule_id in true_rules[latest_ms],
            last_raised_ms=max(raised, default=None),
        )

    def write(self, rows: Sequence[ProfileRow]) -> None:
        self.rows += rows


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
    replaced = stored.windows.get(row.window_end_ms)
    return Correction(
        row._replace(
            revision=min(FIRST_REVISION + window.revision, LAST_REVISION),
            flags=[flag for flag in row.flags if flag.rule_id not in known],
            memberships=(),
        ),
        window.revision,
        None if replaced is None else replaced.revision,
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
