"""Evaluates rules and decides which of the true ones raise a flag.

The profile pipeline uses it for windows, the scoring pipeline for events with their event_id. The
rules are in docs/data-contract.md, section 6.
"""

import hashlib
from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple, Protocol

import numpy as np

from liveprofile.rules.conditions import TextCall, plain_value
from liveprofile.rules.flags import Flag, PastFlags, RowPosition
from liveprofile.rules.rules import Rule
from liveprofile.units import HOUR_MS
from liveprofile.wire.tokens import FIELD

Evidence = dict[str, float | int | str]


class RuleMatch(NamedTuple):
    """A rule that is true for a window or an event."""

    rule: Rule
    value: float
    usual: float | None  # None if the rule names none or it is unknown
    evidence: Evidence


def evaluate_rules(
    rules: Sequence[Rule], columns: Mapping[str | TextCall, np.ndarray], rows: int
) -> list[list[RuleMatch]]:
    """Evaluates rules for n windows or events; returns the true rules of each.

    rules: all of one scope; columns: (n,) for each feature of the scope
    (liveprofile.rules.rules.feature_kinds) and for attributes that somebody has. A rule whose
    value is not finite is false.
    """
    matches: list[list[RuleMatch]] = [[] for _ in range(rows)]
    for rule in rules:
        value = columns[rule.value]
        true = rule.condition(columns, rows) & np.isfinite(value)
        if rule.types:
            true &= reduce(np.logical_or, (columns["event_type"] == each for each in rule.types))
        for row in np.flatnonzero(true).tolist():
            matches[row].append(_rule_match(rule, columns, row))
    return matches


def _rule_match(rule: Rule, columns: Mapping[str, np.ndarray], row: int) -> RuleMatch:
    evidence: Evidence = {"value": plain_value(columns[rule.value][row])}
    evidence |= {
        name: plain_value(columns[feature][row]) for name, feature in rule.message_features.items()
    }
    evidence["threshold"] = rule.threshold
    usual = None
    if rule.usual is not None:
        evidence["usual"] = plain_value(columns[rule.usual][row])
        usual = float(columns[rule.usual][row])
    return RuleMatch(
        rule,
        float(columns[rule.value][row]),
        usual if usual is not None and np.isfinite(usual) else None,
        evidence,
    )


def flag_id(user_id: str, rule_id: str, subject: int | str) -> str:
    """Returns a deterministic id, the same for every copy of a flag.

    subject: the window's end in ms, or the event's id.
    """
    text = FIELD.join((user_id, rule_id, str(subject)))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def reason_entry(match: RuleMatch) -> dict[str, Any]:
    """Returns the entry of a flag's `reasons`. A model's reasons have the same keys."""
    return {
        "code": match.rule.reason,
        "value": match.value,
        "usual": match.usual,
        "sentence": match.rule.message.format_map(match.evidence),
    }


def build_flag(
    match: RuleMatch, user_id: str, time_ms: int, rules_version: str, event_id: str = ""
) -> Flag:
    """Builds the flag of a match.

    time_ms: the window's end, or the event's time. event_id: "" for a window.
    """
    rule, reason = match.rule, reason_entry(match)
    return Flag(
        flag_id=flag_id(user_id, rule.id, event_id or time_ms),
        rule_id=rule.id,
        reason=rule.reason,
        severity=rule.severity,
        action=rule.action,
        value=match.value,
        threshold=rule.threshold,
        message=reason["sentence"],
        evidence=match.evidence,
        rules_version=rules_version,
        event_id=event_id,
        rule_version=rule.version,
        rule_state="SHADOW" if rule.state == "SHADOW" else "ACTIVE",
        reasons=[reason],
    )


class RuleEvaluation(NamedTuple):
    """A window or an event with its true rules."""

    user_id: str
    time_ms: int  # the window's end, or the event's time
    matches: list[RuleMatch]
    event_id: str = ""


class PastFlagsReader(Protocol):
    """Reads what is stored of users before some rows. The sinks of both pipelines implement it."""

    def past_flags(self, rows: Sequence[tuple[str, RowPosition]]) -> list[PastFlags]: ...


class _BatchRows:
    """The rows of one user that were evaluated earlier in the batch."""

    def __init__(self) -> None:
        self._positions: list[RowPosition] = []  # ascending
        self._true_rules: dict[RowPosition, frozenset[str]] = {}
        self._raised: dict[str, list[RowPosition]] = {}  # by rule, ascending

    def add(self, row: RowPosition, true_rules: frozenset[str], raised: Sequence[Flag]) -> None:
        insort(self._positions, row)
        self._true_rules[row] = true_rules
        for flag in raised:
            insort(self._raised.setdefault(flag.rule_id, []), row)

    def raises(self, rule: Rule, row: RowPosition, past: PastFlags) -> bool:
        """Whether a rule that is true in a row raises a flag. past: what is stored."""
        stored = [position for rule_id, position in past.raised if rule_id == rule.id]
        if row in stored:
            return True
        true_rules = past.true_rules
        before = bisect_left(self._positions, row)
        if before and (past.latest is None or self._positions[before - 1] > past.latest):
            true_rules = self._true_rules[self._positions[before - 1]]
        if rule.id in true_rules:
            return False
        raised = self._raised.get(rule.id, [])
        before = bisect_left(raised, row)
        nearest = stored + raised[max(before - 1, 0) : before + 1]
        cool_down_ms = rule.cool_down_hours * HOUR_MS
        return all(abs(row.time_ms - each.time_ms) >= cool_down_ms for each in nearest)


class FlagPolicy:
    """Raises a flag when a rule changes from false to true outside its cool-down.

    The store is read only for the few rows with a match; earlier rows of the same batch are kept
    in memory. So the decisions depend on the order of the rows and not on how they are cut into
    batches. A row whose flag is stored raises it again, whatever arrived in the meantime: a replay
    sends the alert that a failure may have lost.
    """

    def __init__(self, store: PastFlagsReader):
        self._store = store

    def raise_flags(self, rows: Sequence[RuleEvaluation], rules_version: str) -> list[list[Flag]]:
        """Returns the flags of each row. `rows`: in order of arrival."""
        asked = [
            (row.user_id, RowPosition(row.time_ms, row.event_id)) for row in rows if row.matches
        ]
        past = iter(self._store.past_flags(asked) if asked else ())
        # Rows of other users change no flag: most of them.
        in_batch = {user_id: _BatchRows() for user_id, _ in asked}
        flags: list[list[Flag]] = []
        for user_id, time_ms, matches, event_id in rows:
            earlier = in_batch.get(user_id)
            if earlier is None:
                flags.append([])
                continue
            row, stored = RowPosition(time_ms, event_id), next(past) if matches else PastFlags()
            raised = [
                build_flag(match, user_id, time_ms, rules_version, event_id)
                for match in matches
                if earlier.raises(match.rule, row, stored)
            ]
            earlier.add(row, frozenset(match.rule.id for match in matches), raised)
            flags.append(raised)
        return flags


class NoPastFlags:
    """Reports no earlier flag and no rule as true before, so every rule that is true raises one."""

    def past_flags(self, rows: Sequence[tuple[str, RowPosition]]) -> list[PastFlags]:
        return [PastFlags()] * len(rows)
