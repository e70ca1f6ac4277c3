"""What other rules would have flagged: rules evaluated again over stored windows and events.

Conditions are evaluated by `evaluate_rules`, and cool-downs by `FlagPolicy`, as in the job. Windows
keep all features of rules. Events keep STORED_FEATURES: a rule that reads others counts with the
outcome that the job has stored, if its condition is that of a rule in force, and is left out
otherwise. Rows are taken in order of time; the job takes them in order of arrival.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import orjson
from cassandra.cluster import Session
from cassandra.query import SimpleStatement

from intake.labels import Label, keep_valid, read_file_or_topic
from liveprofile.errors import InputError
from liveprofile.features.window_features import (
    BEFORE_WINDOW,
    IN_PROFILE,
    WINDOW_FEATURES,
    window_features,
)
from liveprofile.rules.flag_policy import (
    FlagPolicy,
    NoPastFlags,
    RuleEvaluation,
    RuleMatch,
    evaluate_rules,
)
from liveprofile.rules.flags import RowPosition
from liveprofile.rules.rules import SCORE_FEATURE, Rule, Scope
from liveprofile.settings import Settings
from liveprofile.storage import queries
from liveprofile.storage.cql import read_pages, to_ms
from liveprofile.storage.queries import columns, names_of, scan_ring
from liveprofile.units import DAY_MS, HOUR_MS
from liveprofile.wire.user_records import read_time_ms
from services.alerts.labels import LABEL_OF_STATE

STORED_FEATURES: Mapping[Scope, frozenset[str]] = {
    "window": frozenset(WINDOW_FEATURES),
    "event": frozenset({SCORE_FEATURE, "amount", "event_type"}),
}
Labels = Mapping[tuple[str, int], Label]  # by user and time of the event, or end of the window
BLOCK_ROWS = 5_000


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
    users: int  # with an alert
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
    """Why a rule cannot be evaluated over stored rows; None if it can, or the job has done it."""
    same = {"id", "scope", "types", "when", "threshold", "value"}
    done = (each.model_dump(include=same) for each in in_force if each.state != "PAUSED")
    if not (missing := _missing(rule)) or rule.model_dump(include=same) in done:
        return None
    return f"reads {', '.join(missing)}, which is not stored with {rule.scope}s"


def _missing(rule: Rule) -> list[str]:
    """What the rule reads and stored rows lack."""
    names = {*rule.condition.names, rule.value, *rule.message_features.values()}
    names |= ({rule.usual} if rule.usual else set()) | ({"event_type"} if rule.types else set())
    attributes = [f'attribute("{name}")' for name in sorted(rule.condition.attributes)]
    return sorted(names - STORED_FEATURES[rule.scope]) + attributes


class RuleReplay:
    """Evaluates rules over blocks of rows, in any order, and then raises their flags.

    Keeps a few hundred bytes for each row until the end.
    """

    def __init__(self, rules: Iterable[Rule], in_force: Iterable[Rule]):
        rules, in_force = [each for each in rules if each.state != "PAUSED"], list(in_force)
        reasons = {rule.id: not_evaluable(rule, in_force) for rule in rules}
        self.skipped = {name: reason for name, reason in reasons.items() if reason}
        self._rules = [rule for rule in rules if rule.id not in self.skipped]
        self._rows: dict[tuple[Scope, str], list[RuleEvaluation]] = defaultdict(list)

    def add(self, rows: StoredRows) -> None:
        of_scope = [rule for rule in self._rules if rule.scope == rows.scope]
        stored = {rule.id: _stored_match(rule) for rule in of_scope if _missing(rule)}
        evaluated = [rule for rule in of_scope if rule.id not in stored]
        found = evaluate_rules(evaluated, rows.columns, len(rows.user_ids))
        for user_id, time_ms, event_id, matches, true in zip(
            rows.user_ids, rows.times_ms, rows.event_ids, found, rows.true_rules, strict=True
        ):
            matches += [match for rule_id, match in stored.items() if rule_id in true]
            evaluation = RuleEvaluation(user_id, time_ms, matches, event_id)
            self._rows[rows.scope, user_id].append(evaluation)

    def flags(self) -> Iterator[RaisedFlag]:
        for rows in self._rows.values():
            if not any(row.matches for row in rows):
                continue
            rows.sort(key=lambda row: RowPosition(row.time_ms, row.event_id))
            raised = FlagPolicy(NoPastFlags()).raise_flags(rows, "")
            for row, flags in zip(rows, raised, strict=True):
                for flag in flags:
                    is_alert = flag.rule_state == "ACTIVE"
                    yield RaisedFlag(row.user_id, row.time_ms, flag.rule_id, is_alert)


def _stored_match(rule: Rule) -> RuleMatch:
    """A match of which only the rule is known."""
    names = (*rule.message_features, "value", "threshold", "usual")
    return RuleMatch(rule, np.nan, None, dict.fromkeys(names, np.nan))


def outcome(flags: Iterable[RaisedFlag], since_ms: int, labels: Labels) -> Outcome:
    """Of the flags from `since_ms` on; earlier ones only start cool-downs."""
    counted = [flag for flag in flags if flag.time_ms >= since_ms]
    alerts = [flag for flag in counted if flag.is_alert]
    known = [labels[key] for flag in alerts if (key := (flag.user_id, flag.time_ms)) in labels]
    return Outcome(
        Counter(flag.time_ms // DAY_MS * DAY_MS for flag in alerts),
        Counter(flag.rule_id for flag in alerts),
        len(counted) - len(alerts),
        len({flag.user_id for flag in alerts}),
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

    event_id = ""

    @property
    def time_ms(self) -> int:
        return self.window_end_ms


class StoredEvent(NamedTuple):
    """A row of risk_score_by_hour."""

    user_id: str
    event_time_ms: int
    event_id: str
    event_type: str
    amount: float
    score: float
    active_rules: Any

    @property
    def time_ms(self) -> int:
        return self.event_time_ms


def blocks(rows: Iterable[StoredWindow] | Iterable[StoredEvent]) -> Iterator[StoredRows]:
    """Rows of one scope, BLOCK_ROWS at a time."""
    remaining = iter(rows)
    while block := list(islice(remaining, BLOCK_ROWS)):
        is_window = isinstance(block[0], StoredWindow)
        yield StoredRows(
            "window" if is_window else "event",
            [each.user_id for each in block],
            [each.time_ms for each in block],
            [each.event_id for each in block],
            _window_columns(block) if is_window else _event_columns(block),
            [frozenset(names_of(each.active_rules)) for each in block],
        )


def _window_columns(block: list[StoredWindow]) -> Mapping[str, np.ndarray]:
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
    return window_features(before, current)


def _event_columns(block: list[StoredEvent]) -> Mapping[str, np.ndarray]:
    return {
        "event_type": np.array([each.event_type for each in block]),
        "amount": _floats(each.amount for each in block),
        SCORE_FEATURE: _floats(each.score for each in block),
    }


def _floats(values: Iterable[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], np.float64)


class Backtest(NamedTuple):
    """What the rules in force and the edited ones raise over the same rows."""

    since_ms: int
    until_ms: int
    windows: int
    events: int
    current: Outcome
    edited: Outcome
    skipped: Mapping[str, str]  # id of a rule: why it was not evaluated


def compare(
    current: Sequence[Rule],
    edited: Sequence[Rule],
    rows: Iterable[StoredRows],
    since_ms: int,
    until_ms: int,
    labels: Labels,
) -> Backtest:
    """rows: also of the longest cool-down before `since_ms`."""
    replays = RuleReplay(current, current), RuleReplay(edited, current)
    counts = {"window": 0, "event": 0}
    for block in rows:
        counts[block.scope] += sum(time_ms >= since_ms for time_ms in block.times_ms)
        for replay in replays:
            replay.add(block)
    now, then = (outcome(replay.flags(), since_ms, labels) for replay in replays)
    return Backtest(
        since_ms,
        until_ms,
        counts["window"],
        counts["event"],
        now,
        then,
        replays[0].skipped | replays[1].skipped,
    )


def backtest(
    session: Session,
    settings: Settings,
    current: Sequence[Rule],
    edited: Sequence[Rule],
    days: int,
    now_ms: int,
) -> Backtest:
    """Of the last days until now; of a history without recent flags, until its last flag.

    Raises ServiceError.
    """
    until_ms = _end_ms(session, days, now_ms)
    since_ms = until_ms - days * DAY_MS
    # Flags before may start a cool-down that ends later.
    longest_h = max((rule.cool_down_hours for rule in (*current, *edited)), default=0.0)
    ends_ms = since_ms - round(longest_h * HOUR_MS), until_ms
    # Of two labels the later in order counts.
    labels = dict(chain(read_topic_labels(settings), read_flag_labels(session)))

    def stored() -> Iterator[StoredRows]:
        select = f"SELECT {columns(StoredWindow)} FROM profile_delta"
        rows = scan_ring(session, select, ("window_end", *ends_ms))
        yield from blocks(map(StoredWindow._make, rows))
        if any(rule.scope == "event" and rule.state != "PAUSED" for rule in (*current, *edited)):
            select = f"SELECT {columns(StoredEvent)} FROM risk_score_by_hour"
            rows = scan_ring(session, select, ("event_time", *ends_ms), key="user_id, hour")
            yield from blocks(map(StoredEvent._make, rows))

    return compare(current, edited, stored(), since_ms, until_ms, labels)


def _end_ms(session: Session, days: int, now_ms: int) -> int:
    latest = queries.flags(session, limit=1)
    newest_ms = latest[0].window_end_ms if latest else now_ms
    return now_ms if newest_ms > now_ms - days * DAY_MS else newest_ms


def as_json(found: Backtest) -> dict[str, Any]:
    sides = {
        name: side._asdict() | {"alerts": side.alerts, "precision": side.precision}
        for name, side in (("current", found.current), ("edited", found.edited))
    }
    return found._asdict() | sides


# User and time, of the event or of the end of the window; and the label.
_KnownLabel = tuple[tuple[str, int], Label]


def read_flag_labels(session: Session) -> Iterable[_KnownLabel]:
    """The labels that analysts gave to flags. Raises ServiceError."""
    query = SimpleStatement("SELECT DISTINCT flag_id, user_id, window_end, state FROM flag_state")
    for row in read_pages(session, query):
        if row.state in LABEL_OF_STATE:
            yield (row.user_id, to_ms(row.window_end)), LABEL_OF_STATE[row.state]


def read_topic_labels(settings: Settings) -> Iterable[_KnownLabel]:
    """The valid labels of the topic, in its order. Raises ServiceError."""
    for label in keep_valid(read_file_or_topic(settings, None, ""), lambda _: None):
        time_ms = read_time_ms("event_time", label["event_time"], InputError)
        yield (label["user_id"], time_ms), label["label"]
