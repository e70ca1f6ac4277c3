"""Evaluates rules and decides which of the true ones raise a flag.

The profile pipeline uses it for windows, the scoring pipeline for events with their event_id. The
rules are in docs/data-contract.md, section 6.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from liveprofile.rules.flags import Flag, FlagHistory, FlagQuery
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
    rules: Sequence[Rule], columns: Mapping[str, np.ndarray], rows: int
) -> list[list[RuleMatch]]:
    """Evaluates rules for n windows or events; returns the true rules of each.

    rules: all of one scope; columns: (n,) for each feature of the scope
    (liveprofile.rules.rules.feature_kinds). A rule whose value is not finite is false.
    """
    matches: list[list[RuleMatch]] = [[] for _ in range(rows)]
    for rule in rules:
        value = columns[rule.value]
        true = rule.condition(columns, rows) & np.isfinite(value)
        if rule.types:
            true &= _one_of(columns["event_type"], rule.types)
        for row in np.flatnonzero(true).tolist():
            matches[row].append(_rule_match(rule, columns, row))
    return matches


def _one_of(event_type: np.ndarray, types: Sequence[str]) -> np.ndarray:
    true = event_type == types[0]
    for other in types[1:]:
        true |= event_type == other
    return true


def _rule_match(rule: Rule, columns: Mapping[str, np.ndarray], row: int) -> RuleMatch:
    evidence: Evidence = {"value": _plain(columns[rule.value][row])}
    evidence |= {
        name: _plain(columns[feature][row]) for name, feature in rule.message_features.items()
    }
    evidence["threshold"] = rule.threshold
    usual = None
    if rule.usual is not None:
        evidence["usual"] = _plain(columns[rule.usual][row])
        usual = float(columns[rule.usual][row])
    return RuleMatch(
        rule,
        float(columns[rule.value][row]),
        usual if usual is not None and np.isfinite(usual) else None,
        evidence,
    )


def _plain(value: np.generic) -> float | int | str:
    """Converts to a Python value; whole numbers become int, as messages show counts."""
    if isinstance(value, np.str_):
        return str(value)
    number = float(value)
    return int(number) if number.is_integer() else number


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


class FlagHistoryReader(Protocol):
    """Reads a rule's earlier evaluations and flags. The sinks of both pipelines implement it."""

    def flag_history(self, queries: Sequence[FlagQuery]) -> list[FlagHistory]: ...


class _BatchHistory(NamedTuple):
    """What earlier rows of the batch decided for a user."""

    true_rules: frozenset[str]  # at the user's latest row
    raised_ms: dict[str, int]  # rule id: time of its latest flag


class FlagPolicy:
    """Raises a flag when a rule changes from false to true outside its cool-down.

    The store is read only for the few rows with a match; earlier rows of the same batch are kept
    in memory. A replay makes the same decisions, because they depend only on earlier rows, which
    are already stored.
    """

    def __init__(self, store: FlagHistoryReader):
        self._store = store

    def raise_flags(self, rows: Sequence[RuleEvaluation], rules_version: str) -> list[list[Flag]]:
        """Returns the flags of each row. A user's rows must be in order of time."""
        queries = [
            FlagQuery(row.user_id, match.rule.id, row.time_ms)
            for row in rows
            for match in row.matches
        ]
        histories = iter(self._store.flag_history(queries) if queries else ())
        in_batch: dict[str, _BatchHistory] = {}
        flags: list[list[Flag]] = []
        for user_id, time_ms, matches, event_id in rows:
            earlier = in_batch.get(user_id)
            raised_ms = dict(earlier.raised_ms) if earlier else {}
            raised = []
            for match in matches:
                history = _merge(next(histories), earlier, match.rule.id)
                if _raises(match.rule, history, time_ms):
                    raised.append(build_flag(match, user_id, time_ms, rules_version, event_id))
                    raised_ms[match.rule.id] = time_ms
            in_batch[user_id] = _BatchHistory(
                frozenset(match.rule.id for match in matches), raised_ms
            )
            flags.append(raised)
        return flags


def _merge(stored: FlagHistory, in_batch: _BatchHistory | None, rule_id: str) -> FlagHistory:
    if in_batch is None:
        return stored
    return FlagHistory(
        rule_id in in_batch.true_rules, in_batch.raised_ms.get(rule_id, stored.last_raised_ms)
    )


def _raises(rule: Rule, history: FlagHistory, time_ms: int) -> bool:
    if history.was_true:
        return False
    last_ms = history.last_raised_ms
    return last_ms is None or time_ms - last_ms >= rule.cool_down_hours * HOUR_MS
