"""Compares what the profile pipeline stored and sent with the reference over the same input.

Every window must be closed.
"""

import hashlib
import json
import tomllib
from collections import defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from cassandra.cluster import Session

from liveprofile.kafka import records as kafka_records
from liveprofile.resources import product_path
from liveprofile.settings import Settings
from liveprofile.storage import queries
from liveprofile.storage.connection import open_session
from liveprofile.wire.histories import MEMORY_WINDOWS
from tests.reference.history import HISTORY_WINDOWS
from tests.reference.profile import Result, run_reference
from tests.reference.validation import REASONS_WITH_DETAIL, event_clock_ms
from tests.reference.windows import Position, Record, window_end_ms
from tests.support.compare_profiles import (
    Comparison,
    Expected,
    Key,
    compare_profiles,
    compare_windows,
    scan,
)
from tests.support.model_scores import WindowScores, load_model, run_scored

RULE_TOLERANCE = 1e-4
TRUNCATED_SURPRISE_TOLERANCE = 3.0  # nats, if histories are truncated at different tokens
NEVER_FUTURE_MS = 1 << 62


class Archive(NamedTuple):
    """What a job has read before its topic, in a bootstrap."""

    records: Sequence[Record] = ()  # with negative offsets
    starts: Mapping[int, int] = MappingProxyType({})  # by partition: where the topic goes on
    silent_until_ms: int = 0  # flags of windows that end by then may lack an alert


NO_ARCHIVE = Archive()


def compare_with_reference(
    settings: Settings,
    gone: Collection[str] = (),
    copies: Collection[str] = (),
    archive: Archive = NO_ARCHIVE,
) -> Comparison:
    """Raises ServiceError if Kafka or Cassandra does not answer.

    gone: users who were erased while the job ran, of whom nothing may be stored.
    copies: versions with the shipped weights that scored, too.
    """
    comparison = Comparison()
    topics = settings.topics
    records = read_records(settings, archive)
    values = {record[:2]: record.value for record in records}
    rejected = {
        position: record
        for position, record in _by_origin(settings, topics.rejected).items()
        if record.headers["reason"] != b"ERASED"
    }
    late = _by_origin(settings, topics.late)
    tables = tomllib.loads(product_path(settings.rules).read_text(encoding="utf-8"))["rules"]
    rules = [table for table in tables if table["scope"] == "window"]
    too_many = {
        position for position, record in rejected.items() if record.headers["reason"] == b"TOO_MANY"
    }
    model = load_model(settings)
    expected, scores = run_scored(
        model,
        lambda score: run_reference(records, settings, too_many=too_many, score=score, rules=rules),
    )
    # A bootstrap sends nothing about the archive.
    expected.late = {position for position in expected.late if position[1] >= 0}
    _compare_rejected(comparison, rejected, expected, values, settings)
    _compare_late(comparison, late, expected, values, settings)
    closed = {
        key: window
        for key, window in _closed_windows(expected, scores, HISTORY_WINDOWS).items()
        if key.user_id not in gone
    }
    with open_session(settings.cassandra) as session:
        active = compare_windows(comparison, session, closed)
        versions = (model.version, *copies)
        users = compare_profiles(comparison, session, closed, versions)
        flags = _compare_flags(comparison, session, closed, active, rules)
    _compare_alerts(comparison, flags, rules, settings, gone, archive.silent_until_ms)
    counted = ("records", "rejected", "late", "windows", "users", "flags")
    job = (records, rejected, late, active, users, flags)
    reference = (
        values,
        expected.rejected,
        expected.late,
        closed,
        {user_id for user_id, _ in closed},
        [flag for window in closed.values() for flag in window.profile.flags],
    )
    comparison.job = dict(zip(counted, map(len, job), strict=True))
    comparison.reference = dict(zip(counted, map(len, reference), strict=True))
    return comparison


def _closed_windows(
    expected: Result, scores: list[WindowScores], history: int
) -> dict[Key, Expected]:
    """Returns the windows that must be stored, each user's in time order."""
    closed: dict[Key, Expected] = {}
    truncated_in_history: dict[str, deque[bool]] = defaultdict(lambda: deque(maxlen=history))
    in_memory: dict[str, deque[bool]] = defaultdict(lambda: deque(maxlen=MEMORY_WINDOWS))
    for profile, of_window in zip(expected.profiles.values(), scores, strict=True):
        before, memory = truncated_in_history[profile.user_id], in_memory[profile.user_id]
        memory.append(of_window.truncated)
        if profile.window_end_ms - 1 <= (expected.watermark_ms or 0):
            key = Key(profile.user_id, profile.window_end_ms)
            closed[key] = Expected(profile, of_window, any(before), any(memory))
        before.append(of_window.truncated)
    return closed


def read_records(settings: Settings, archive: Archive = NO_ARCHIVE) -> list[Record]:
    """Merges partitions by the broker's timestamp; within a partition the order is by offset."""
    last_ms: dict[int, int] = {}
    by_arrival = []
    for record in kafka_records.read_topic(settings, settings.topics.events):
        arrival_ms = max(record.timestamp_ms, last_ms.get(record.partition, 0))
        last_ms[record.partition] = arrival_ms
        if record.offset >= archive.starts.get(record.partition, 0):
            by_arrival.append((arrival_ms, record))
    by_arrival.sort(key=lambda item: (item[0], item[1].partition, item[1].offset))
    return [
        *archive.records,
        *(
            Record(record.partition, record.offset, record.timestamp_ms, record.key, record.value)
            for _, record in by_arrival
        ),
    ]


# --- topics -----------------------------------------------------------------------------------


def _by_origin(settings: Settings, topic: str) -> dict[Position, kafka_records.Record]:
    """Returns the topic's records by their position in the input topic. The last duplicate wins."""
    return {
        (int(record.headers["partition"]), int(record.headers["offset"])): record
        for record in kafka_records.read_topic(settings, topic)
        if record.headers["topic"].decode() == settings.topics.events
    }


def _compare_rejected(
    comparison: Comparison,
    rejected: dict[Position, kafka_records.Record],
    expected: Result,
    values: dict[Position, bytes | None],
    settings: Settings,
) -> None:
    for position in rejected.keys() | expected.rejected.keys():
        record, reference = rejected.get(position), expected.rejected.get(position)
        reason = record and record.headers["reason"].decode()
        input_record = f"{position} {(values[position] or b'')[:150]!r}"
        comparison.equal("reason", input_record, reason, reference and reference.reason)
        if record is None or reference is None:
            continue
        forwarded, more_headers = _forwarded(values[position], settings.limits.max_payload_chars)
        comparison.equal("rejected payload", position, record.value, forwarded)
        headers = {name: value.decode() for name, value in record.headers.items()}
        comparison.equal("headers", position, more_headers.items() - headers.items(), set())
        comparison.equal("truncated", position, "truncated" in headers, bool(more_headers))
        if reference.reason in REASONS_WITH_DETAIL and reference.reason != "TOO_MANY":
            detail = record.headers["detail"].decode()
            comparison.equal("detail", input_record, detail, reference.detail)


def _forwarded(value: bytes | None, payload_chars: int) -> tuple[bytes | None, dict[str, str]]:
    """Returns the payload as the rejected topic has it, and the headers of a truncated one."""
    if value is None or len(text := value.decode("utf-8", "surrogateescape")) <= payload_chars:
        return value, {}
    headers = {
        "truncated": "true",
        "payload_bytes": str(len(value)),
        "payload_sha256": hashlib.sha256(value).hexdigest(),
    }
    return text[:payload_chars].encode("utf-8", "surrogateescape"), headers


def _compare_late(
    comparison: Comparison,
    late: dict[Position, kafka_records.Record],
    expected: Result,
    values: dict[Position, bytes | None],
    settings: Settings,
) -> None:
    """Checks positions, payloads and lateness."""
    comparison.equal("late", "positions", set(late), expected.late)
    for position, record in late.items():
        comparison.equal("late payload", position, record.value, values[position])
        lateness_ms = int(record.headers["lateness_ms"])
        time_ms = event_clock_ms(record.value, NEVER_FUTURE_MS, settings.limits) or 0
        last_ms = window_end_ms((record.key or b"").decode(), time_ms, settings.window) - 1
        closed_ms = expected.clock_ms[position[0]] - settings.window.out_of_orderness_ms
        if not last_ms <= time_ms + lateness_ms <= closed_ms:
            comparison.add_difference("lateness_ms", position, lateness_ms, closed_ms)


# --- rules ------------------------------------------------------------------------------------


def _compare_flags(
    comparison: Comparison,
    session: Session,
    expected: Mapping[Key, Expected],
    active: Mapping[Key, frozenset[str]],
    rules: Sequence[dict[str, Any]],
) -> dict[str, queries.StoredFlag]:
    """Compares active rules and flags; returns the stored flags."""
    undecided_users = {
        key.user_id for key, window in expected.items() if _is_undecided(window, rules)
    }
    comparison.ties["rules"] += len(undecided_users)
    for key in expected.keys() & active.keys():
        if key.user_id not in undecided_users:
            reference = expected[key].profile.active_rules
            comparison.equal("active_rules", key, sorted(active[key]), sorted(reference))

    stored = {flag.flag_id: flag for flag in scan(session, "risk_flag", queries.StoredFlag)}
    by_day = {flag.flag_id: flag for flag in scan(session, "risk_flag_by_day", queries.StoredFlag)}
    comparison.equal("risk_flag_by_day", "all", by_day, stored)
    window_rules = {rule["id"] for rule in rules}
    stored = {key: flag for key, flag in stored.items() if flag.rule_id in window_rules}
    expected_flags = {
        flag.flag_id: (flag, key)
        for key, window in expected.items()
        for flag in window.profile.flags
    }
    for flag_id in stored.keys() | expected_flags.keys():
        job, (flag, key) = stored.get(flag_id), expected_flags.get(flag_id, (None, None))
        if job and flag:
            comparison.equal("flag key", flag_id, Key(job.user_id, job.window_end_ms), key)
            comparison.equal(
                "flag rule", flag_id, (job.rule_id, job.reason), (flag.rule_id, flag.reason)
            )
            tolerance = TRUNCATED_SURPRISE_TOLERANCE if expected[key].truncated else RULE_TOLERANCE
            comparison.equal("flag value", key, job.value, flag.value, tolerance)
        elif (job or key).user_id not in undecided_users:
            comparison.add_difference("flag", flag_id, job, flag)
    return stored


def _is_undecided(window: Expected, rules: Sequence[dict[str, Any]]) -> bool:
    """True if a value is at its rule's threshold: rounding then decides this and later flags."""
    for rule in rules:
        value = window.profile.rule_values.get(rule["id"])
        if value is None:
            continue
        tolerance = RULE_TOLERANCE * max(1.0, abs(value))
        if window.truncated and rule["value"] == "surprise":
            tolerance = TRUNCATED_SURPRISE_TOLERANCE
        if abs(value - rule["threshold"]) < tolerance:
            return True
    return False


def _compare_alerts(
    comparison: Comparison,
    stored: Mapping[str, queries.StoredFlag],
    rules: Sequence[dict[str, Any]],
    settings: Settings,
    gone: Collection[str],
    silent_until_ms: int,
) -> None:
    state = {rule["id"]: rule.get("state", "ACTIVE") for rule in rules}
    alerting = {key for key, flag in stored.items() if state[flag.rule_id] == "ACTIVE"}
    alerts = {}
    for record in kafka_records.read_topic(settings, settings.topics.alerts):
        alert = json.loads(record.value or b"")
        if alert["data"].get("rule_id") not in state:
            continue  # an alert of an event or of drift
        if alert["subject"] in gone:
            continue  # sent before the erasure; the topic keeps it
        alerts[alert["id"]] = alert
        comparison.equal("alert key", alert["id"], record.key, alert["subject"].encode())
    silent = {key for key in alerting if stored[key].window_end_ms <= silent_until_ms}
    comparison.equal("alerts", "ids", (set(alerts) ^ alerting) - silent, set())
    for flag_id in alerts.keys() & stored.keys():
        flag, data = stored[flag_id], alerts[flag_id]["data"]
        for name in ("user_id", "rule_id", "reason", "severity", "action", "value", "message"):
            comparison.equal(f"alert {name}", flag_id, data[name], getattr(flag, name))
