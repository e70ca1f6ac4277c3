"""Compares rules with those in force, over stored windows and events, and against labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any, NamedTuple

import orjson
from cassandra.cluster import Session
from cassandra.query import SimpleStatement

from liveprofile.kafka.records import read_topic
from liveprofile.labels.feedback import LABEL_OF_STATE, Label, schema_error
from liveprofile.rules.backtest import (
    Labels,
    Outcome,
    RuleReplay,
    StoredRows,
    event_blocks,
    outcome,
    scan_events,
    scan_windows,
    window_blocks,
)
from liveprofile.rules.rules import Rule
from liveprofile.settings import Settings
from liveprofile.storage import queries
from liveprofile.storage.cql import read_pages, to_ms
from liveprofile.units import DAY_MS, HOUR_MS, SECOND_MS

Watch = Callable[[Iterable[Any]], Iterable[Any]]


class Backtest(NamedTuple):
    """gained, lost: users with an alert under the new rules only, under the rules in force only."""

    since_ms: int
    until_ms: int
    windows: int
    events: int
    current: Outcome
    edited: Outcome
    skipped: Mapping[str, str]  # id of a rule: why it was not evaluated
    gained: Sequence[str]
    lost: Sequence[str]


def compare(
    current: Sequence[Rule],
    edited: Sequence[Rule],
    blocks: Iterable[StoredRows],
    since_ms: int,
    until_ms: int,
    labels: Labels,
) -> Backtest:
    """blocks: rows from `first_needed_ms` on."""
    replays = RuleReplay(current, current), RuleReplay(edited, current)
    counts = {"window": 0, "event": 0}
    for block in blocks:
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
        sorted(then.users - now.users),
        sorted(now.users - then.users),
    )


def first_needed_ms(rules: Iterable[Rule], since_ms: int) -> int:
    """Flags before `since_ms` may start a cool-down that ends after it."""
    longest_h = max((rule.cool_down_hours for rule in rules), default=0.0)
    return since_ms - round(longest_h * HOUR_MS)


def backtest(
    session: Session,
    settings: Settings,
    current: Sequence[Rule],
    edited: Sequence[Rule],
    days: int,
    now_ms: int,
    watch: Watch = iter,
) -> Backtest:
    """Of the last days until now; of a history without recent flags, until its last flag.

    watch: passes the rows on. Raises ServiceError.
    """
    until_ms = _end_ms(session, days, now_ms)
    since_ms = until_ms - days * DAY_MS
    first_ms = first_needed_ms([*current, *edited], since_ms)
    # Of two labels the later in order counts.
    labels = dict(chain(read_topic_labels(settings), read_flag_labels(session)))

    def blocks() -> Iterable[StoredRows]:
        yield from window_blocks(watch(scan_windows(session, first_ms, until_ms)))
        if any(rule.scope == "event" and rule.state != "PAUSED" for rule in (*current, *edited)):
            yield from event_blocks(watch(scan_events(session, first_ms, until_ms)))

    return compare(current, edited, blocks(), since_ms, until_ms, labels)


def _end_ms(session: Session, days: int, now_ms: int) -> int:
    latest = queries.flags(session, limit=1)
    newest_ms = latest[0].window_end_ms if latest else now_ms
    return now_ms if newest_ms > now_ms - days * DAY_MS else newest_ms


def as_json(found: Backtest) -> dict[str, Any]:
    def outcome_as_json(each: Outcome) -> dict[str, Any]:
        figures = {"alerts": each.alerts, "precision": each.precision, "users": len(each.users)}
        return each._asdict() | figures

    return found._asdict() | {
        name: outcome_as_json(getattr(found, name)) for name in ("current", "edited")
    }


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
    for record in read_topic(settings, settings.topics.feedback):
        try:
            label = orjson.loads(record.value or b"")
        except orjson.JSONDecodeError:
            continue  # the job has rejected it
        if schema_error(label) is None:
            yield (label["user_id"], _ms(label["event_time"])), label["label"]


def _ms(time: Any) -> int:
    return (
        time
        if isinstance(time, int)
        else round(datetime.fromisoformat(time).timestamp() * SECOND_MS)
    )
