"""What a job stored and sent, against tests/reference.py over the same input topic.

    python -m tests.compare --config FILE

does it for whatever is in the topics and the keyspace of FILE, prints one JSON line with counts,
differences and examples last, and exits with 1 if there is a difference. Every window must be
closed by then; which records are late is taken from the late topic.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cassandra.cluster import Session

from liveprofile import kafka, reads
from liveprofile.cassandra import session_of
from liveprofile.config import Settings, load, project_path
from models.runtime import ProfileModel, Scores
from tests.reference import Position, Profile, Record, Result, run
from tests.reference_check import REASONS_WITH_DETAIL, clock_ms
from tests.reference_user import Token
from udfs import events
from udfs.columns import TokenColumns

EXAMPLES = 5
FEATURE_TOLERANCE = 2e-6  # the job keeps six decimals
STD_TOLERANCE = 1e-5  # of the mean: a difference of squares loses half of the digits
SHARE_TOLERANCE = 1e-4  # the job keeps four decimals
MODEL_TOLERANCE = 1e-4  # float32, summed in another order in a batch
RULE_TOLERANCE = 1e-4
NEVER_FUTURE_MS = 1 << 62


@dataclass
class Comparison:
    job: dict[str, int] = field(default_factory=dict)
    reference: dict[str, int] = field(default_factory=dict)
    differences: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    ties: Counter[str] = field(default_factory=Counter)  # so close that rounding decides

    @property
    def ok(self) -> bool:
        return not self.differences

    def equal(self, what: str, where: Any, job: Any, reference: Any) -> None:
        if job != reference:
            self.differs(what, where, job, reference)

    def near(
        self, what: str, where: Any, job: float | None, reference: float | None, tolerance: float
    ) -> None:
        if job is None or reference is None:
            self.equal(what, where, job, reference)
        elif not abs(job - reference) <= tolerance * max(1.0, abs(reference)):
            self.differs(what, where, job, reference)

    def differs(self, what: str, where: Any, job: Any, reference: Any) -> None:
        self.differences[what] += 1
        if len(self.examples[what]) < EXAMPLES:
            self.examples[what].append(f"{where}: job {job!r}, reference {reference!r}"[:400])

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "job": self.job,
            "reference": self.reference,
            "differences": dict(self.differences),
            "ties": dict(self.ties),
            "examples": dict(self.examples),
        }


class ModelScores:
    """Scores one window at a time with the job's model, and keeps the answers in order."""

    def __init__(self, settings: Settings):
        self.model = ProfileModel.load(project_path(settings.model.checkpoint), device="cpu")
        self.scores: list[Scores] = []

    def __call__(self, history: list[Token], window: list[Token], /) -> dict[str, float]:
        one = self.model.score(*(_one_row(tokens) for tokens in (history, window)))
        self.scores.append(one)
        return {
            "churn_before": float(one.churn_before[0]),
            "churn_after": float(one.churn_after[0]),
            "expected_spend_before": float(one.spend_before[0]),
            "expected_spend_after": float(one.spend_after[0]),
            "surprise": float(one.surprise[0]),
        }


def _one_row(tokens: Iterable[Token]) -> TokenColumns:
    return TokenColumns.of([[events.Token(*token) for token in tokens]])


class Key(NamedTuple):
    user_id: str
    window_end_ms: int


def compare(settings: Settings) -> Comparison:
    """Raises ServiceError if Kafka or Cassandra doesn't answer."""
    found = Comparison()
    topics = settings.topics
    records = _in_order_of_arrival(kafka.read_topic(settings, topics.events))
    values = {(record.partition, record.offset): record.value for record in records}
    rejected = _origins(settings, topics.rejected)
    late = _origins(settings, topics.late)
    scores = ModelScores(settings)
    rules = tomllib.loads(project_path(settings.rules).read_text(encoding="utf-8"))["rules"]
    expected = run(records, settings, late=set(late), score=scores, rules=rules)
    # The reference asks for one score a window, in the order in which it lists them.
    score_of = dict(zip(expected.profiles, scores.scores, strict=True))

    _compare_rejected(found, rejected, expected, values)
    _compare_late(found, late, expected, values, settings)
    closed = expected.closed()
    with session_of(settings.cassandra) as session:
        windows = _compare_windows(found, session, closed, score_of)
        users = _compare_profiles(found, session, closed, score_of, scores.model)
        flags = _compare_flags(found, session, closed, rules, settings)
    found.job = {
        "records": len(records),
        "rejected": len(rejected),
        "late": len(late),
        "windows": windows,
        "users": users,
        "flags": flags,
    }
    found.reference = {
        "records": len(values),
        "rejected": len(expected.rejected),
        "late": len(expected.late),
        "windows": len(closed),
        "users": len({user_id for user_id, _ in closed}),
        "flags": sum(len(profile.flags) for profile in closed.values()),
    }
    return found


def _in_order_of_arrival(records: Iterable[kafka.Record]) -> list[Record]:
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


def _origins(settings: Settings, topic: str) -> dict[Position, kafka.Record]:
    """The topic's records by where they came from; of a copy sent again the last."""
    return {
        (int(record.headers["partition"]), int(record.headers["offset"])): record
        for record in kafka.read_topic(settings, topic)
        if record.headers["topic"].decode() == settings.topics.events
    }


def _compare_rejected(
    found: Comparison,
    rejected: dict[Position, kafka.Record],
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
    late: dict[Position, kafka.Record],
    expected: Result,
    values: dict[Position, bytes | None],
    settings: Settings,
) -> None:
    """The reference was told which are late; here: that they can be, and came whole."""
    found.equal("late", "positions", set(late) - expected.late, set())
    length_ms = settings.window.length_ms
    for position, record in late.items():
        found.equal("late payload", position, record.value, values[position])
        lateness_ms = int(record.headers["lateness_ms"])
        time_ms = clock_ms(record.value, NEVER_FUTURE_MS, settings.limits) or 0
        last_ms = (time_ms // length_ms + 1) * length_ms - 1
        if not last_ms <= time_ms + lateness_ms <= (expected.watermark_ms or 0):
            found.differs("lateness_ms", position, lateness_ms, expected.watermark_ms)


# --- windows ----------------------------------------------------------------------------------


def _compare_windows(
    found: Comparison,
    session: Session,
    expected: dict[tuple[str, int], Profile],
    score_of: dict[tuple[str, int], Scores],
) -> int:
    """Every profile_delta; returns how many there are."""
    stored: set[tuple[str, int]] = set()
    for delta in _scan(session, "profile_delta", reads.Delta):
        key = (delta.user_id, delta.window_end_ms)
        stored.add(key)
        if key in expected:
            _compare_window(found, Key(*key), delta, expected[key], score_of[key])
        else:
            found.differs("window", key, "stored", None)
    for key in expected.keys() - stored:
        found.differs("window", key, None, f"{expected[key].events} events")
    return len(stored)


def _compare_window(
    found: Comparison, key: Key, delta: reads.Delta, profile: Profile, scores: Scores
) -> None:
    content = json.loads(delta.delta)
    found.equal("window start", key, delta.window_start_ms, profile.window_start_ms)
    found.equal("digests", key, delta.digests, b"".join(profile.digests))
    found.equal("events", key, delta.events, profile.events)
    found.near("amount", key, delta.amount, profile.amount, FEATURE_TOLERANCE)
    found.near("surprise", key, delta.surprise, profile.surprise, MODEL_TOLERANCE)
    distance = 1 - float(scores.embedding_before[0] @ scores.embedding_after[0])
    found.near("embedding_distance", key, delta.embedding_distance, distance, MODEL_TOLERANCE)
    for side in ("before", "after"):
        _compare_features(found, (*key, side), content[side], getattr(profile, side))
    window = content["window"]
    for name in ("events", "counts", "items", "categories", "devices", "sessions"):
        found.equal(f"window {name}", key, window[name], getattr(profile, name))
    for name in ("amount", "return_amount"):
        found.near(f"window {name}", key, window[name], getattr(profile, name), FEATURE_TOLERANCE)
    _compare_moved(found, key, content["moved_categories"], profile.moved_categories)


def _compare_features(
    found: Comparison, where: Any, job: dict[str, float], reference: dict[str, float | None]
) -> None:
    found.equal("feature names", where, set(job), set(reference))
    for name, value in reference.items():
        tolerance = FEATURE_TOLERANCE
        if name in ("churn", "expected_spend"):
            tolerance = MODEL_TOLERANCE
        elif name.endswith("_std"):
            mean = reference[name.removesuffix("std") + "mean"]
            tolerance = STD_TOLERANCE * max(1.0, mean)
        found.near(name, where, job.get(name), value, tolerance)


def _compare_moved(
    found: Comparison,
    key: Key,
    job: Sequence[Sequence[Any]],
    reference: Sequence[tuple[str, float, float]],
) -> None:
    if len(job) != len(reference):
        found.differs("moved categories", key, job, reference)
        return
    if [name for name, *_ in job] != [name for name, *_ in reference]:
        sizes = ([abs(after - before) for _, before, after in each] for each in (job, reference))
        same_sizes = all(abs(a - b) <= 2 * SHARE_TOLERANCE for a, b in zip(*sizes, strict=True))
        found.ties["moved categories"] += same_sizes
        if not same_sizes:
            found.differs("moved categories", key, job, reference)
        return
    for (name, before, after), (_, *shares) in zip(job, reference, strict=True):
        found.near("share before", (*key, name), before, shares[0], SHARE_TOLERANCE)
        found.near("share after", (*key, name), after, shares[1], SHARE_TOLERANCE)


# --- profiles ---------------------------------------------------------------------------------


def _compare_profiles(
    found: Comparison,
    session: Session,
    expected: dict[tuple[str, int], Profile],
    score_of: dict[tuple[str, int], Scores],
    model: ProfileModel,
) -> int:
    """Every user_profile, which is the user's last window; returns how many there are."""
    last: dict[str, Profile] = {}
    for profile in expected.values():  # of a user in order of time
        last[profile.user_id] = profile
    users = set()
    for stored in _scan(session, "user_profile", reads.Profile):
        users.add(stored.user_id)
        profile = last.get(stored.user_id)
        if profile is None:
            found.differs("user", stored.user_id, "stored", None)
            continue
        key = Key(stored.user_id, profile.window_end_ms)
        found.equal("last window", key, stored.window_end_ms, profile.window_end_ms)
        if stored.window_end_ms == profile.window_end_ms:
            _compare_profile(found, key, stored, profile, score_of[key], model)
    for user_id in last.keys() - users:
        found.differs("user", user_id, None, "a profile")
    return len(users)


def _compare_profile(
    found: Comparison,
    key: Key,
    stored: reads.Profile,
    profile: Profile,
    scores: Scores,
    model: ProfileModel,
) -> None:
    content = json.loads(stored.profile)
    _compare_features(found, key, content["features"], profile.after)
    for name in ("churn", "expected_spend", "recency_days", "purchases_decayed", "amount_decayed"):
        job = content["features"][name]
        found.equal(f"column {name}", key, getattr(stored, name), job)
    found.equal("model_version", key, stored.model_version, model.version)
    found.equal("events_total", key, stored.events_total, profile.after["events"])
    _compare_segments(found, key, set(stored.segments or ()), profile)
    for name, job, shares in zip(
        ("activity_hour", "activity_weekday"),
        (content["activity_hour"], content["activity_weekday"]),
        profile.activity_after,
        strict=True,
    ):
        close = len(job) == len(shares) and np.abs(np.subtract(job, shares)).max() < SHARE_TOLERANCE
        found.equal(name, key, close, True)
    _compare_shares(found, "category_affinity", key, content["category_affinity"], dict(profile.affinity_after))
    names = [model.categories[index] for index in scores.interests_after[0]]
    interests = dict(zip(names, map(float, scores.interests_after_p[0]), strict=True))
    _compare_shares(found, "interests", key, content["interests"], interests)
    items = [model.items[index] for index in scores.next_items[0]]
    if content["next_items"] != items:
        near = len(set(items) & set(content["next_items"])) >= len(items) - 1
        found.ties["next_items"] += near
        found.equal("next_items", key, near, True)
    embedding = np.subtract(stored.embedding, scores.embedding_after[0])
    found.equal("embedding", key, bool(np.abs(embedding).max() < MODEL_TOLERANCE), True)


def _compare_segments(found: Comparison, key: Key, job: set[str], profile: Profile) -> None:
    differing = job ^ profile.segments
    if differing == {"churn_risk"} and abs(profile.after["churn"] - 0.5) < MODEL_TOLERANCE:
        found.ties["segments"] += 1
        return
    found.equal("segments", key, sorted(job), sorted(profile.segments))


def _compare_shares(
    found: Comparison, what: str, key: Key, job: dict[str, float], reference: dict[str, float]
) -> None:
    """Of the ten largest, those that differ must be as large as the smallest of them."""
    found.equal(f"{what} count", key, len(job), len(reference))
    for name in job.keys() & reference.keys():
        found.near(what, (*key, name), job[name], reference[name], SHARE_TOLERANCE)
    smallest = min(reference.values(), default=0.0)
    for name in job.keys() ^ reference.keys():
        share = job.get(name, reference.get(name, math.inf))
        tie = abs(share - smallest) <= 2 * SHARE_TOLERANCE
        found.ties[what] += tie
        if not tie:
            found.differs(what, (*key, name), job.get(name), reference.get(name))


# --- rules ------------------------------------------------------------------------------------


def _compare_flags(
    found: Comparison,
    session: Session,
    expected: dict[tuple[str, int], Profile],
    rules: Sequence[dict[str, Any]],
    settings: Settings,
) -> int:
    """Rules true, flags and alerts; returns how many flags are stored."""
    thresholds = {rule["id"]: rule["threshold"] for rule in rules}
    undecided = {  # a value on the threshold, and with it what follows for this user
        profile.user_id
        for profile in expected.values()
        for rule_id, value in profile.rule_values.items()
        if abs(value - thresholds[rule_id]) < RULE_TOLERANCE * max(1.0, abs(value))
    }
    found.ties["rules"] += len(undecided)
    for delta in _scan(session, "profile_delta", reads.Delta):
        profile = expected.get((delta.user_id, delta.window_end_ms))
        if profile and delta.user_id not in undecided:
            where = Key(delta.user_id, delta.window_end_ms)
            active = sorted(delta.active_rules or ())
            found.equal("active_rules", where, active, sorted(profile.active_rules))

    stored = {flag.flag_id: flag for flag in _scan(session, "risk_flag", reads.StoredFlag)}
    by_day = {flag.flag_id: flag for flag in _scan(session, "risk_flag_by_day", reads.StoredFlag)}
    found.equal("risk_flag_by_day", "all", by_day, stored)
    wanted = {
        flag.flag_id: (flag, profile) for profile in expected.values() for flag in profile.flags
    }
    for flag_id in stored.keys() | wanted.keys():
        job, reference = stored.get(flag_id), wanted.get(flag_id)
        if job and reference:
            flag, profile = reference
            key = Key(profile.user_id, profile.window_end_ms)
            found.equal("flag key", flag_id, Key(job.user_id, job.window_end_ms), key)
            found.equal("flag rule", flag_id, (job.rule_id, job.reason), (flag.rule_id, flag.reason))
            found.near("flag value", key, job.value, flag.value, RULE_TOLERANCE)
        elif (job.user_id if job else reference[1].user_id) not in undecided:
            found.differs("flag", flag_id, job, reference and reference[0])

    alerts = {}
    for record in kafka.read_topic(settings, settings.topics.alerts):
        alert = json.loads(record.value or b"")
        alerts[alert["id"]] = alert
        found.equal("alert key", alert["id"], record.key, alert["subject"].encode())
    found.equal("alerts", "ids", set(alerts) ^ set(stored), set())
    for flag_id in alerts.keys() & stored.keys():
        flag, data = stored[flag_id], alerts[flag_id]["data"]
        for name in ("user_id", "rule_id", "reason", "severity", "action", "value", "message"):
            found.equal(f"alert {name}", flag_id, data[name], getattr(flag, name))
    return len(stored)


def _scan(session: Session, table: str, kind: type[NamedTuple]) -> Iterator[Any]:
    """Every row of a table; names that end in _ms are timestamps."""
    columns = ", ".join(
        f"to_unix_timestamp({name.removesuffix('_ms')}) AS {name}" if name.endswith("_ms") else name
        for name in kind._fields
    )
    for row in session.execute(f"SELECT {columns} FROM {table}", timeout=60):
        yield kind(*row)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", type=Path, help="TOML file; else LIVEPROFILE_CONFIG")
    found = compare(load(parser.parse_args(arguments).config))
    print(json.dumps(found.as_json()))
    return 0 if found.ok else 1


if __name__ == "__main__":
    sys.exit(main())
