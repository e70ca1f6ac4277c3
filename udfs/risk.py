"""Risk rules: what they look at, when they are true, and which of them raise a flag.

docs/data-contract.md, section 6. Rules come from a TOML file; every flag stores the file's version.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from liveprofile.errors import InputError
from udfs.events import FIELD
from udfs.store import Flag, FlagPast, FlagQuery, ProfileStore

HOUR_MS = 3_600_000

Feature = Literal["purchase_count_z", "purchase_amount_z", "surprise"]


class Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    reason: str = Field(pattern=r"^[A-Z][A-Z0-9_]{0,63}$")
    feature: Feature
    threshold: float
    min_history: int = Field(ge=0)
    min_count: int = Field(ge=0)
    severity: Literal["low", "medium", "high", "critical"]
    action: Literal[
        "notify_customer_service", "step_up_verification", "limit_trading", "restrict_trading"
    ]
    cool_down_hours: float = Field(ge=0)
    message: str = Field(description="a sentence with the evidence's names in braces")


class Rules(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str = Field(min_length=1, max_length=64)
    rules: tuple[Rule, ...]


def load(path: Path) -> Rules:
    """Raises InputError: one line with the file, the key and what is wrong."""
    try:
        rules = Rules.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        for rule in rules.rules:
            rule.message.format_map(dict.fromkeys(EVIDENCE[rule.feature], 0.0))
    except OSError as error:
        raise InputError(f"rules file {path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"rules file {path}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"rules file {path}: {key}: {first['msg']}") from None
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(
            f"rules file {path}: message of {rule.id}: {error}; it may name "
            f"{', '.join(EVIDENCE[rule.feature])}"
        ) from None
    if len({rule.id for rule in rules.rules}) != len(rules.rules):
        raise InputError(f"rules file {path}: two rules have the same id")
    return rules


# What a rule's message and a flag's evidence hold, by the feature it looks at.
EVIDENCE: dict[str, tuple[str, ...]] = {
    "purchase_count_z": ("value", "threshold", "history", "n", "mean", "std"),
    "purchase_amount_z": ("value", "threshold", "history", "amount", "mean", "std"),
    "surprise": ("value", "threshold", "history", "events"),
}


class Finding(NamedTuple):
    """A rule that is true in a window."""

    rule: Rule
    value: float
    evidence: dict[str, float]


def evaluate(
    rules: Rules, before: Mapping[str, np.ndarray], now: Mapping[str, np.ndarray]
) -> list[list[Finding]]:
    """The rules that are true of each of n windows.

    before: windows, purchase_windows, purchase_count_mean/_std, purchase_amount_mean/_std as known
    before the window; now: events, purchases, amount, surprise of the window. All (n,).
    """
    found: list[list[Finding]] = [[] for _ in range(len(now["events"]))]
    for rule in rules.rules:
        if rule.feature == "surprise":
            value, history, count = now["surprise"], before["windows"], now["events"]
            seen = {"events": now["events"]}
        else:
            kind, x = (
                ("count", now["purchases"])
                if rule.feature == "purchase_count_z"
                else ("amount", now["amount"])
            )
            mean, std = before[f"purchase_{kind}_mean"], before[f"purchase_{kind}_std"]
            floor = 1.0 if kind == "count" else np.maximum(0.1 * mean, 1.0)
            value = (x - mean) / np.maximum(std, floor)
            history, count = before["purchase_windows"], now["purchases"]
            seen = {"n" if kind == "count" else "amount": x, "mean": mean, "std": std}
        true = (value >= rule.threshold) & (history >= rule.min_history) & (count >= rule.min_count)
        for row in np.flatnonzero(true).tolist():
            columns = {"value": value, "history": history} | seen
            evidence = {name: _plain(column[row]) for name, column in columns.items()}
            evidence["threshold"] = rule.threshold
            found[row].append(Finding(rule, float(value[row]), evidence))
    return found


def _plain(value: np.floating | np.integer) -> float | int:
    """Whole numbers without a fraction, as a message shows counts."""
    number = float(value)
    return int(number) if number.is_integer() else number


def flag_id(user_id: str, rule_id: str, window_end_ms: int) -> str:
    text = FIELD.join((user_id, rule_id, str(window_end_ms)))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def to_flag(finding: Finding, user_id: str, window_end_ms: int, version: str) -> Flag:
    rule = finding.rule
    return Flag(
        flag_id=flag_id(user_id, rule.id, window_end_ms),
        rule_id=rule.id,
        reason=rule.reason,
        severity=rule.severity,
        action=rule.action,
        value=finding.value,
        threshold=rule.threshold,
        message=rule.message.format_map(finding.evidence),
        evidence=finding.evidence,
        rules_version=version,
    )


class _Seen(NamedTuple):
    active: frozenset[str]
    raised_ms: dict[str, int]


class Raiser:
    """Decides which findings raise a flag: on false -> true, outside the cool-down.

    What a rule did in a user's earlier windows is read from the store, but only for the few rows
    with a finding; windows of the same batch are remembered here. A replay decides the same, since
    only earlier windows are looked at and they are stored before.
    """

    def __init__(self, rules: Rules, store: ProfileStore):
        self._rules, self._store = rules, store

    def raise_flags(self, rows: list[tuple[str, int, list[Finding]]]) -> list[list[Flag]]:
        """rows: (user_id, window_end_ms, findings), a user's windows in time order."""
        queries = [
            FlagQuery(user_id, finding.rule.id, window_end_ms)
            for user_id, window_end_ms, findings in rows
            for finding in findings
        ]
        pasts = iter(self._store.flag_past(queries) if queries else ())
        in_batch: dict[str, _Seen] = {}
        flags: list[list[Flag]] = []
        for user_id, window_end_ms, findings in rows:
            earlier = in_batch.get(user_id)
            raised_ms = dict(earlier.raised_ms) if earlier else {}
            raised = []
            for finding in findings:
                past = _merge(next(pasts), earlier, finding.rule.id)
                if _raises(finding.rule, past, window_end_ms):
                    raised.append(to_flag(finding, user_id, window_end_ms, self._rules.version))
                    raised_ms[finding.rule.id] = window_end_ms
            in_batch[user_id] = _Seen(frozenset(f.rule.id for f in findings), raised_ms)
            flags.append(raised)
        return flags


def _merge(stored: FlagPast, in_batch: _Seen | None, rule_id: str) -> FlagPast:
    if in_batch is None:
        return stored
    return FlagPast(
        rule_id in in_batch.active, in_batch.raised_ms.get(rule_id, stored.last_raised_ms)
    )


def _raises(rule: Rule, past: FlagPast, window_end_ms: int) -> bool:
    if past.was_true:
        return False
    last: Any = past.last_raised_ms
    return last is None or window_end_ms - last >= rule.cool_down_hours * HOUR_MS
