"""What other rules would have flagged: rules evaluated again over stored windows and events.

Conditions are evaluated by `evaluate_rules`, and cool-downs by `FlagPolicy`, as in the job. Windows
keep all features of rules. Events keep STORED_FEATURES: a rule that reads others counts with the
outcome that the job has stored, if its condition is that of a rule in force, and is left out
otherwise. Rows are taken in order of time; the job takes them in order of arrival.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import orjson
from cassandra.cluster import Session

from liveprofile.features.window_features import (
    BEFORE_WINDOW,
    IN_PROFILE,
    WINDOW_FEATURES,
    window_features,
)
from liveprofile.rules.flag_policy import (
    FlagPolicy,
    NoFlagHistory,
    RuleEvaluation,
    RuleMatch,
    evaluate_rules,
)
from liveprofile.rules.flags import Flag, RowPosition
from liveprofile.rules.rules import SCORE_FEATURE, Rule, Scope
from liveprofile.storage.queries import columns, names_of, scan_ring
from liveprofile.units import DAY_MS

STORED_FEATURES: Mapping[Scope, frozenset[str]] = {
    "window": frozenset(WINDOW_FEATURES),
    "event": frozenset({SCORE_FEATURE, "amount", "event_type"}),
}
Label = Literal["fraud", "legitimate"]
Labels = Mapping[tuple[str, int], Label]  # by user and time of the event, or end of the window


BLOCK_ROWS = 5_000
Row = TypeVar("Row")


class StoredRows(NamedTuple):
    """n windows or events. columns: (n,) for each of STORED_FEATURES of the scope."""

    scope: Scope
    user_ids: Sequence[str]
    times_ms: Sequence[int]
    event_ids: Sequence[str]  # "" for windows
    columns: Mapping[str, np.ndarray]
    true_rules: Sequence[frozenset[str]]  # that the job has found true


class RaisedFlag(NamedTuple):
    user_id: str
    time_ms: int
    rule_id: str
    is_alert: bool  # not of a rule in SHADOW


class Outcome(NamedTuple):
    """What a set of rules raises. Alerts are flags of rules that are not in SHADOW."""

    alerts_by_day: Mapping[int, int]  # by the start of the UTC day in ms
    alerts_by_rule: Mapping[str, int]
    shadow_flags: int
    users: frozenset[str]  # with an alert
    frauds: int  # of the labelled alerts
    labelled: int

    @property
    def alerts(self) -> int:
        return sum(self.alerts_by_rule.values())

    @property
    def precision(self) -> float | None:
        """Frauds of the labelled alerts; None without a label."""
        return self.frauds / self.labelled if self.labelled else None


def not_evaluable(rule: Rule, in_force: Iterable[Rule]) -> str | None:
    """Why a rule cannot be evaluated over stored rows; None if it can."""
    missing = sorted(_features(rule) - STORED_FEATURES[rule.scope])
    if rule.condition.attributes:
        missing += [f'attribute("{name}")' for name in sorted(rule.condition.attributes)]
    if not missing or _counterpart(rule, in_force) is not None:
        return None
    return f"reads {', '.join(missing)}, which is not stored with {rule.scope}s"


def _features(rule: Rule) -> set[str]:
    names = {*rule.condition.names, rule.value, *rule.message_features.values()}
    return (
        names | ({rule.usual} if rule.usual else set()) | ({"event_type"} if rule.types else set())
    )


def _counterpart(rule: Rule, in_force: Iterable[Rule]) -> Rule | None:
    """The rule in force with the same condition, which the job has evaluated."""
    for other in in_force:
        same = all(
            getattr(rule, name) == getattr(other, name)
            for name in ("id", "scope", "types", "when", "threshold", "value")
        )
        if same and other.state != "PAUSED":
            return other
    return None


class RuleReplay:
    """Evaluates rules over blocks of rows, in any order, and then raises their flags.

    Keeps a few hundred bytes for each row until the end.
    """

    def __init__(self, rules: Iterable[Rule], in_force: Iterable[Rule]):
        in_force = list(in_force)
        self.skipped: dict[str, str] = {}  # rule id: why it was not evaluated
        self._evaluated: dict[Scope, list[Rule]] = {"window": [], "event": []}
        self._stored: dict[Scope, list[Rule]] = {"window": [], "event": []}
        for rule in rules:
            if rule.state == "PAUSED":
                continue
            if reason := not_evaluable(rule, in_force):
                self.skipped[rule.id] = reason
            elif rule.condition.attributes or _features(rule) - STORED_FEATURES[rule.scope]:
                self._stored[rule.scope].append(rule)
            else:
                self._evaluated[rule.scope].append(rule)
        self._rows: dict[tuple[Scope, str], list[RuleEvaluation]] = defaultdict(list)

    def add(self, rows: StoredRows) -> None:
        found = evaluate_rules(self._evaluated[rows.scope], rows.columns, len(rows.user_ids))
        stored = self._stored[rows.scope]
        for user_id, time_ms, event_id, matches, true in zip(
            rows.user_ids, rows.times_ms, rows.event_ids, found, rows.true_rules, strict=True
        ):
            matches += [_stored_match(rule) for rule in stored if rule.id in true]
            evaluation = RuleEvaluation(user_id, time_ms, matches, event_id)
            self._rows[rows.scope, user_id].append(evaluation)

    def flags(self) -> Iterator[RaisedFlag]:
        for rows in self._rows.values():
            if not any(row.matches for row in rows):
                continue
            rows.sort(key=lambda row: RowPosition(row.time_ms, row.event_id))
            raised = FlagPolicy(NoFlagHistory()).raise_flags(rows, "")
            for row, flags in zip(rows, raised, strict=True):
                yield from (_raised(row, flag) for flag in flags)


def _stored_match(rule: Rule) -> RuleMatch:
    """A match of which only the rule is known."""
    names = (*rule.message_features, "value", "threshold", "usual")
    return RuleMatch(rule, np.nan, None, dict.fromkeys(names, np.nan))


def _raised(row: RuleEvaluation, flag: Flag) -> RaisedFlag:
    return RaisedFlag(row.user_id, row.time_ms, flag.rule_id, flag.rule_state == "ACTIVE")


def outcome(flags: Iterable[RaisedFlag], since_ms: int, labels: Labels) -> Outcome:
    """Of the flags from `since_ms` on; earlier ones only start cool-downs."""
    alerts, shadow = [], 0
    for flag in flags:
        if flag.time_ms < since_ms:
            continue
        if flag.is_alert:
            alerts.append(flag)
        else:
            shadow += 1
    known = [labels[key] for flag in alerts if (key := (flag.user_id, flag.time_ms)) in labels]
    return Outcome(
        Counter(flag.time_ms // DAY_MS * DAY_MS for flag in alerts),
        Counter(flag.rule_id for flag in alerts),
        shadow,
        frozenset(flag.user_id for flag in alerts),
        known.count("fraud"),
        len(known),
    )


class StoredWindow(NamedTuple):
    """A row of profile_delta; `delta` is JSON."""

    user_id: str
    window_end_ms: int
    surprise: float
    active_rules: Any
    delta: str


class StoredEvent(NamedTuple):
    """A row of risk_score_by_hour."""

    user_id: str
    event_time_ms: int
    event_id: str
    event_type: str
    amount: float
    score: float
    active_rules: Any


def scan_windows(session: Session, since_ms: int, until_ms: int) -> Iterator[StoredWindow]:
    """The windows that end in this time. Raises ServiceError."""
    rows = scan_ring(
        session,
        f"SELECT {columns(StoredWindow)} FROM profile_delta",
        ("window_end", since_ms, until_ms),
    )
    return map(StoredWindow._make, rows)


def scan_events(session: Session, since_ms: int, until_ms: int) -> Iterator[StoredEvent]:
    """The scored events of this time. Raises ServiceError."""
    rows = scan_ring(
        session,
        f"SELECT {columns(StoredEvent)} FROM risk_score_by_hour",
        ("event_time", since_ms, until_ms),
        key="user_id, hour",
    )
    return map(StoredEvent._make, rows)


def window_blocks(windows: Iterable[StoredWindow]) -> Iterator[StoredRows]:
    for block in _blocks(windows):
        deltas = [orjson.loads(each.delta) for each in block]
        inside = [delta["window"] for delta in deltas]
        before = {
            name: _floats(delta["before"].get(name) for delta in deltas)
            for name in (IN_PROFILE.get(name, name) for name in BEFORE_WINDOW)
        }
        current = {
            "events": _floats(each["events"] for each in inside),
            "purchases": _floats(each["counts"].get("purchase", 0) for each in inside),
            "amount": _floats(each["amount"] for each in inside),
            "surprise": _floats(each.surprise for each in block),
        }
        yield StoredRows(
            "window",
            [each.user_id for each in block],
            [each.window_end_ms for each in block],
            [""] * len(block),
            window_features(before, current),
            [frozenset(names_of(each.active_rules)) for each in block],
        )


def event_blocks(events: Iterable[StoredEvent]) -> Iterator[StoredRows]:
    for block in _blocks(events):
        yield StoredRows(
            "event",
            [each.user_id for each in block],
            [each.event_time_ms for each in block],
            [each.event_id for each in block],
            {
                "event_type": np.array([each.event_type for each in block]),
                "amount": _floats(each.amount for each in block),
                SCORE_FEATURE: _floats(each.score for each in block),
            },
            [frozenset(names_of(each.active_rules)) for each in block],
        )


def _blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    remaining = iter(rows)
    while block := list(islice(remaining, BLOCK_ROWS)):
        yield block


def _floats(values: Iterable[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], np.float64)
