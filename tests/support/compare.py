"""What a job stored and sent, against tests/reference/profile.py over the same input topic.

    python -m tests.support.compare --config FILE

does it for whatever is in the topics and the keyspace of FILE, prints one JSON line with counts,
differences and examples last, and exits with 1 if there is a difference. Every window must be
closed by then; which records are late is taken from the late topic.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cassandra.cluster import Session

from liveprofile.config import Settings, load
from liveprofile.events.modalities import Modality
from liveprofile.kafka import records as kafka_records
from liveprofile.resources import product_path
from liveprofile.storage import queries
from liveprofile.storage.connection import open_session
from liveprofile.wire import tokens as events
from liveprofile.wire.token_columns import TokenColumns
from models.profile.inference import ProfileModel, Scores
from models.profile.user_features import FEATURE_NAMES
from tests.reference.profile import Position, Record, Result, run, window_end_ms
from tests.reference.user_history import TOKEN_CHARS, Token, token_text
from tests.reference.validation import REASONS_WITH_DETAIL, clock_ms
from tests.support.compare_profiles import (
    Comparison,
    Expected,
    Key,
    compare_profiles,
    compare_windows,
    scan,
)

RULE_TOLERANCE = 1e-4
CUT_SURPRISE_TOLERANCE = 3.0  # nats: how much a history cut elsewhere may change it
NEVER_FUTURE_MS = 1 << 62


class ModelScores:
    """Scores one window at a time with the job's model, and keeps the answers in order.

    `long`: whether the window's tokens were too many characters to be kept whole.
    """

    def __init__(self, settings: Settings):
        self.model = ProfileModel.load(product_path(settings.model.checkpoint), device="cpu")
        self.scores: list[Scores] = []
        self.long: list[bool] = []

    def __call__(
        self,
        history: list[Token],
        window: list[Token],
        known_before: dict[str, float],
        known_after: dict[str, float],
        brought: dict[tuple[str, int], list[float]],
        /,
    ) -> dict[str, float]:
        tokens = (_one_row(tokens) for tokens in (history, window))
        numbers = (_numbers(known) for known in (known_before, known_after))
        vectors = {
            Modality(*modality): np.array(vector, np.float32)
            for modality, vector in brought.items()
            if modality in self.model.modalities
        }
        one = self.model.score(*tokens, *numbers, [vectors])
        self.scores.append(one)
        self.long.append(sum(len(token_text(token)) + 1 for token in window) > TOKEN_CHARS)
        return {
            "churn_before": float(one.churn_before[0]),
            "churn_after": float(one.churn_after[0]),
            "expected_spend_before": float(one.spend_before[0]),
            "expected_spend_after": float(one.spend_after[0]),
            "surprise": float(one.surprise[0]),
        }


def _numbers(known: dict[str, float]) -> np.ndarray:
    values = [
        max(known[name], 0.0) for name in FEATURE_NAMES
    ]  # more may have been paid back than paid
    return np.log1p(np.array([values])).astype(np.float32)


def _one_row(tokens: Iterable[Token]) -> TokenColumns:
    return TokenColumns.of([[events.Token(*token) for token in tokens]])


def compare(settings: Settings) -> Comparison:
    """Raises ServiceError if Kafka or Cassandra doesn't answer."""
    found = Comparison()
    topics = settings.topics
    records = _in_order_of_arrival(kafka_records.read_topic(settings, topics.events))
    values = {(record.partition, record.offset): record.value for record in records}
    rejected = _origins(settings, topics.rejected)
    late = _origins(settings, topics.late)
    scores = ModelScores(settings)
    tables = tomllib.loads(product_path(settings.rules).read_text(encoding="utf-8"))["rules"]
    rules = [table for table in tables if table["scope"] == "window"]
    expected = run(records, settings, late=set(late), score=scores, rules=rules)
    _compare_rejected(found, rejected, expected, values)
    _compare_late(found, late, expected, values, settings)
    closed = _closed(expected, scores, settings.window.history)
    with open_session(settings.cassandra) as session:
        active = compare_windows(found, session, closed)
        users = compare_profiles(found, session, closed, scores.model)
        flags = _compare_flags(found, session, closed, active, rules, settings)
    found.job = {
        "records": len(records),
        "rejected": len(rejected),
        "late": len(late),
        "windows": len(active),
        "users": users,
        "flags": flags,
    }
    found.reference = {
        "records": len(values),
        "rejected": len(expected.rejected),
        "late": len(expected.late),
        "windows": len(closed),
        "users": len({user_id for user_id, _ in closed}),
        "flags": sum(len(one.profile.flags) for one in closed.values()),
    }
    return found


def _closed(expected: Result, scores: ModelScores, history: int) -> dict[Key, Expected]:
    """The windows that must be stored, a user's in order of time."""
    closed: dict[Key, Expected] = {}
    was_long: dict[str, deque[bool]] = defaultdict(lambda: deque(maxlen=history))
    # The reference asked for one score a window, in the order in which it lists them.
    for profile, one, is_long in zip(
        expected.profiles.values(), scores.scores, scores.long, strict=True
    ):
        before = was_long[profile.user_id]
        if profile.window_end_ms - 1 <= (expected.watermark_ms or 0):
            key = Key(profile.user_id, profile.window_end_ms)
            closed[key] = Expected(profile, one, any(before))
        before.append(is_long)
    return closed


def _in_order_of_arrival(records: Iterable[Record]) -> list[Record]:
    """Lined up by the broker's clock; inside a partition by offset."""
    last_ms: dict[int, int] = {}
    stamped = []
    for record in records:
        stamp_ms = max(record.timestamp_ms, last_ms.get(record.partition, 0))
        last_ms[record.partition] = stamp_ms
        stamped.append((stamp_ms, record))
    stamped.sort(key=lambda each: (each[0], each[1].partition, each[1].offset))
    return [
        Record(record.partition, record.offset, record.timestamp_ms, record.key, record.value)
        for _, record in stamped
    ]


# --- topics -----------------------------------------------------------------------------------


def _origins(settings: Settings, topic: str) -> dict[Position, Record]:
    """The topic's records by where they came from; of a copy sent again the last."""
    return {
        (int(record.headers["partition"]), int(record.headers["offset"])): record
        for record in kafka_records.read_topic(settings, topic)
        if record.headers["topic"].decode() == settings.topics.events
    }


def _compare_rejected(
    found: Comparison,
    rejected: dict[Position, Record],
    expected: Result,
    values: dict[Position, bytes | None],
) -> None:
    for position in rejected.keys() | expected.rejected.keys():
        record, reference = rejected.get(position), expected.rejected.get(position)
        reason = record and record.headers["reason"].decode()
        where = f"{position} {(values[position] or b'')[:150]!r}"
        found.equal("reason", where, reason, reference and reference.reason)
        if record is None or reference is None:
            continue
        found.equal("rejected payload", position, record.value, values[position])
        if reference.reason in REASONS_WITH_DETAIL:
            detail = record.headers["detail"].decode()
            found.equal("detail", where, detail, reference.detail)


def _compare_late(
    found: Comparison,
    late: dict[Position, Record],
    expected: Result,
    values: dict[Position, bytes | None],
    settings: Settings,
) -> None:
    """The reference was told which are late; here: that they can be, and came whole."""
    found.equal("late", "positions", set(late) - expected.late, set())
    for position, record in late.items():
        found.equal("late payload", position, record.value, values[position])
        if "repaired" in record.headers:  # its lateness is the audit's estimate
            continue
        lateness_ms = int(record.headers["lateness_ms"])
        time_ms = clock_ms(record.value, NEVER_FUTURE_MS, settings.limits) or 0
        last_ms = window_end_ms((record.key or b"").decode(), time_ms, settings.window) - 1
        if not last_ms <= time_ms + lateness_ms <= (expected.watermark_ms or 0):
            found.differs("lateness_ms", position, lateness_ms, expected.watermark_ms)


# --- rules ------------------------------------------------------------------------------------


def _compare_flags(
    found: Comparison,
    session: Session,
    expected: Mapping[Key, Expected],
    active: Mapping[Key, frozenset[str]],
    rules: Sequence[dict[str, Any]],
    settings: Settings,
) -> int:
    """Rules true, flags and alerts; returns how many flags are stored."""
    undecided = {key.user_id for key, one in expected.items() if _undecided(one, rules)}
    found.ties["rules"] += len(undecided)
    for key in expected.keys() & active.keys():
        if key.user_id not in undecided:
            reference = expected[key].profile.active_rules
            found.equal("active_rules", key, sorted(active[key]), sorted(reference))

    stored = {flag.flag_id: flag for flag in scan(session, "risk_flag", queries.StoredFlag)}
    by_day = {flag.flag_id: flag for flag in scan(session, "risk_flag_by_day", queries.StoredFlag)}
    found.equal("risk_flag_by_day", "all", by_day, stored)
    of_windows = {rule["id"] for rule in rules}
    stored = {key: flag for key, flag in stored.items() if flag.rule_id in of_windows}
    wanted = {
        flag.flag_id: (flag, key) for key, one in expected.items() for flag in one.profile.flags
    }
    for flag_id in stored.keys() | wanted.keys():
        job, (flag, key) = stored.get(flag_id), wanted.get(flag_id, (None, None))
        if job and flag:
            found.equal("flag key", flag_id, Key(job.user_id, job.window_end_ms), key)
            found.equal(
                "flag rule", flag_id, (job.rule_id, job.reason), (flag.rule_id, flag.reason)
            )
            tolerance = CUT_SURPRISE_TOLERANCE if expected[key].cut else RULE_TOLERANCE
            found.near("flag value", key, job.value, flag.value, tolerance)
        elif (job or key).user_id not in undecided:
            found.differs("flag", flag_id, job, flag)
    _compare_alerts(found, stored, rules, settings)
    return len(stored)


def _undecided(one: Expected, rules: Sequence[dict[str, Any]]) -> bool:
    """A value lies on its rule's threshold: with it, what follows for this user is open."""
    for rule in rules:
        value = one.profile.rule_values.get(rule["id"])
        if value is None:
            continue
        tolerance = RULE_TOLERANCE * max(1.0, abs(value))
        if one.cut and rule["value"] == "surprise":
            tolerance = CUT_SURPRISE_TOLERANCE
        if abs(value - rule["threshold"]) < tolerance:
            return True
    return False


def _compare_alerts(
    found: Comparison,
    stored: Mapping[str, queries.StoredFlag],
    rules: Sequence[dict[str, Any]],
    settings: Settings,
) -> None:
    state = {rule["id"]: rule.get("state", "ACTIVE") for rule in rules}
    loud = {key for key, flag in stored.items() if state[flag.rule_id] == "ACTIVE"}
    alerts = {}
    for record in kafka_records.read_topic(settings, settings.topics.alerts):
        alert = json.loads(record.value or b"")
        if alert["data"].get("rule_id") not in state:
            continue  # of an event, or of drift
        alerts[alert["id"]] = alert
        found.equal("alert key", alert["id"], record.key, alert["subject"].encode())
    found.equal("alerts", "ids", set(alerts) ^ loud, set())
    for flag_id in alerts.keys() & stored.keys():
        flag, data = stored[flag_id], alerts[flag_id]["data"]
        for name in ("user_id", "rule_id", "reason", "severity", "action", "value", "message"):
            found.equal(f"alert {name}", flag_id, data[name], getattr(flag, name))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", type=Path, help="TOML file; else LIVEPROFILE_CONFIG")
    found = compare(load(parser.parse_args(arguments).config))
    print(json.dumps(found.as_json()))
    return 0 if found.ok else 1


if __name__ == "__main__":
    sys.exit(main())
