"""Risk flags, and the queries for a rule's earlier flags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol


class Flag(NamedTuple):
    """A risk flag raised by one rule in one window or, with an event_id, at one event."""

    flag_id: str
    rule_id: str
    reason: str
    severity: str
    action: str
    value: float
    threshold: float
    message: str
    evidence: dict[str, Any]
    rules_version: str
    event_id: str = ""
    rule_version: int = 1
    rule_state: Literal["ACTIVE", "SHADOW"] = "ACTIVE"  # SHADOW: stored, no alert
    reasons: Sequence[dict[str, Any]] = ()  # each: code, value, usual (or None), sentence


class FlagQuery(NamedTuple):
    user_id: str
    rule_id: str
    window_end_ms: int


class FlagHistory(NamedTuple):
    was_true: bool  # the rule was true in the user's latest window before this one
    last_raised_ms: int | None  # window end of the rule's newest flag before this one


class FlaggedRow(Protocol):
    """The row that has flags: a window, or an event, whose time is both its start and its end."""

    user_id: str
    window_start_ms: int
    window_end_ms: int
    model_version: str
    revision: int
    active_rules: list[str]
    flags: list[Flag]
