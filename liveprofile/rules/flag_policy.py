"""Which rules are true of windows and events, and which of those raise a flag.

docs/data-contract.md, section 6. Both lanes use it: windows, and single events with their event_id.
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


class Finding(NamedTuple):
    """A rule that is true of a window or an event."""

    rule: Rule
    value: float
    usual: float | None  # None where the rule names none, or it isn't known
    evidence: Evidence


def evaluate(
    rules: Sequence[Rule], columns: Mapping[str, np.ndarray], rows: int
) -> list[list[Finding]]:
    """The rules that are true of each of n windows or events.

    rules: of one scope; columns: its features, (n,) each (liveprofile.rules.rules.names). A rule whose value is
    not a finite number is not true.
    """
    found: list[list[Finding]] = [[] for _ in range(rows)]
    for rule in rules:
        value = columns[rule.value]
        true = rule.condition(columns, rows) & np.isfinite(value)
        if rule.types:
            true &= _one_of(columns["event_type"], rule.types)
        for row in np.flatnonzero(true).tolist():
            found[row].append(_finding(rule, columns, row))
    return found


def _one_of(event_type: np.ndarray, types: Sequence[str]) -> np.ndarray:
    true = event_type == types[0]
    for other in types[1:]:
        true |= event_type == other
    return true


def _finding(rule: Rule, columns: Mapping[str, np.ndarray], row: int) -> Finding:
    evidence: Evidence = {"value": _plain(columns[rule.value][row])}
    evidence |= {name: _plain(columns[feature][row]) for name, feature in rule.shown.items()}
    evidence["threshold"] = rule.threshold
    usual = None
    if rule.usual is not None:
        evidence["usual"] = _plain(columns[rule.usual][row])
        usual = float(columns[rule.usual][row])
    return Finding(
        rule,
        float(columns[rule.value][row]),
        usual if usual is not None and np.isfinite(usual) else None,
        evidence,
    )


def _plain(value: np.generic) -> float | int | str:
    """Whole numbers without a fraction, as a message shows counts."""
    if isinstance(value, np.str_):
        return str(value)
    number = float(value)
    return int(number) if number.is_integer() else number


def flag_id(user_id: str, rule_id: str, of: int | str) -> str:
    """The same for every copy of a flag. of: the window's end in ms, or the event's id."""
    text = FIELD.join((user_id, rule_id, str(of)))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def reason_of(finding: Finding) -> dict[str, Any]:
    """The finding as an entry of a flag's `reasons`; a model's reasons have the same keys."""
    return {
        "code": finding.rule.reason,
        "value": finding.value,
        "usual": finding.usual,
        "sentence": finding.rule.message.format_map(finding.evidence),
    }


def to_flag(
    finding: Finding, user_id: str, time_ms: int, rules_version: str, event_id: str = ""
) -> Flag:
    """time_ms: the window's end, or the event's time. event_id: "" for a window."""
    rule, reason = finding.rule, reason_of(finding)
    return Flag(
        flag_id=flag_id(user_id, rule.id, event_id or time_ms),
        rule_id=rule.id,
        reason=rule.reason,
        severity=rule.severity,
        action=rule.action,
        value=finding.value,
        threshold=rule.threshold,
        message=reason["sentence"],
        evidence=finding.evidence,
        rules_version=rules_version,
        event_id=event_id,
        rule_version=rule.version,
        rule_state="SHADOW" if rule.state == "SHADOW" else "ACTIVE",
        reasons=[reason],
    )


class RuleEvaluation(NamedTuple):
    """A window or an event with the rules that are true of it."""

    user_id: str
    time_ms: int  # the window's end, or the event's time
    findings: list[Finding]
    event_id: str = ""


class FlagHistoryReader(Protocol):
    """What a Raiser asks: a store of either lane."""

    def flag_history(self, queries: Sequence[FlagQuery]) -> list[FlagHistory]: ...


class _Seen(NamedTuple):
    active: frozenset[str]
    raised_ms: dict[str, int]


class FlagPolicy:
    """Decides which findings raise a flag: on false -> true, outside the cool-down.

    What a rule did at a user's earlier times is read from the store, but only for the few rows with
    a finding; rows of the same batch are remembered here. A replay decides the same, since only
    earlier rows are looked at and they are stored before.
    """

    def __init__(self, store: FlagHistoryReader):
        self._store = store

    def raise_flags(self, rows: Sequence[RuleEvaluation], rules_version: str) -> list[list[Flag]]:
        """The flags of each row. A user's rows come in order of time."""
        queries = [
            FlagQuery(row.user_id, finding.rule.id, row.time_ms)
            for row in rows
            for finding in row.findings
        ]
        pasts = iter(self._store.flag_history(queries) if queries else ())
        in_batch: dict[str, _Seen] = {}
        flags: list[list[Flag]] = []
        for user_id, time_ms, findings, event_id in rows:
            earlier = in_batch.get(user_id)
            raised_ms = dict(earlier.raised_ms) if earlier else {}
            raised = []
            for finding in findings:
                past = _merge(next(pasts), earlier, finding.rule.id)
                if _raises(finding.rule, past, time_ms):
                    raised.append(to_flag(finding, user_id, time_ms, rules_version, event_id))
                    raised_ms[finding.rule.id] = time_ms
            in_batch[user_id] = _Seen(frozenset(f.rule.id for f in findings), raised_ms)
            flags.append(raised)
        return flags


def _merge(stored: FlagHistory, in_batch: _Seen | None, rule_id: str) -> FlagHistory:
    if in_batch is None:
        return stored
    return FlagHistory(
        rule_id in in_batch.active, in_batch.raised_ms.get(rule_id, stored.last_raised_ms)
    )


def _raises(rule: Rule, past: FlagHistory, time_ms: int) -> bool:
    if past.was_true:
        return False
    last_ms = past.last_raised_ms
    return last_ms is None or time_ms - last_ms >= rule.cool_down_hours * HOUR_MS


SCORE = "score"  # what rules call the model's probability
