"""Risk flags, and what is stored of a user's earlier ones."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal, NamedTuple, Protocol

ALL_RULES = "*"  # in the place of a rule's id: a snooze of all rules


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


class RowPosition(NamedTuple):
    """The place of a window or an event among those of its user.

    Of two events at the same time the one with the larger id comes first: read backwards, this is
    the order of the table risk_score_by_hour.
    """

    time_ms: int  # the window's end, or the event's time
    event_id: str = ""  # "" for a window

    def __lt__(self, other: tuple[int, str]) -> bool:  # type: ignore[override]
        return (self[0], other[1]) < (other[0], self[1])

    def __gt__(self, other: tuple[int, str]) -> bool:  # type: ignore[override]
        return (self[0], other[1]) > (other[0], self[1])


class PastFlags(NamedTuple):
    """What is stored of a user when a row of the user is evaluated."""

    latest: RowPosition | None = None  # the user's latest row before this one
    true_rules: frozenset[str] = frozenset()  # in that row
    # Rule and row of each flag, also of later rows, if this one came out of order, and of this one,
    # if it is replayed.
    raised: frozenset[tuple[str, RowPosition]] = frozenset()


class FlaggedRow(Protocol):
    """The row that has flags: a window, or an event, whose time is both its start and its end."""

    user_id: str
    window_start_ms: int
    window_end_ms: int
    model_version: str
    revision: int
    active_rules: list[str]
    flags: list[Flag]


class Severity(StrEnum):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for low, 3 for critical."""
        return list(Severity).index(self)


def is_snoozed(snoozed_until_ms: Mapping[str, int], rule_id: str, at_ms: int) -> bool:
    """Whether a rule is snoozed at `at_ms` of the wall clock (not event time)."""
    return any(snoozed_until_ms.get(key, 0) > at_ms for key in (rule_id, ALL_RULES))
