"""Compares stored windows and profiles with the reference, for tests/support/compare.py."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from cassandra.cluster import Session

from liveprofile.storage import queries
from models.profile.values import CurvesAfter
from tests.reference.profile import Profile, divergence_part
from tests.support.model_scores import WindowScores

EXAMPLES = 5
FEATURE_TOLERANCE = 2e-6  # the job keeps six decimals
STD_TOLERANCE = 1e-5  # times the mean: a difference of squares loses half of the digits
SHARE_TOLERANCE = 1e-4  # the job keeps four decimals
CURVE_TOLERANCE = 0.011  # the job keeps two decimals
MODEL_TOLERANCE = 1e-4  # float32, whose sums in a batch have another order
FROM_MODEL = ("churn", "expected_spend")


@dataclass
class Comparison:
    """Counts of differences between the job and the reference by kind, with a few examples."""

    job: dict[str, int] = field(default_factory=dict)
    reference: dict[str, int] = field(default_factory=dict)
    differences: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    ties: Counter[str] = field(default_factory=Counter)  # values so close that rounding decides

    @property
    def ok(self) -> bool:
        return not self.differences

    def equal(self, kind: str, where: Any, job: Any, reference: Any) -> None:
        if job != reference:
            self.add_difference(kind, where, job, reference)

    def near(
        self, kind: str, where: Any, job: float | None, reference: float | None, tolerance: float
    ) -> None:
        if job is None or reference is None:
            self.equal(kind, where, job, reference)
        elif not abs(job - reference) <= tolerance * max(1.0, abs(reference)):
            self.add_difference(kind, where, job, reference)

    def add_difference(self, kind: str, where: Any, job: Any, reference: Any) -> None:
        self.differences[kind] += 1
        if len(self.examples[kind]) < EXAMPLES:
            self.examples[kind].append(f"{where}: job {job!r}, reference {reference!r}"[:400])

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "job": self.job,
            "reference": self.reference,
            "differences": dict(self.differences),
            "ties": dict(self.ties),
            "examples": dict(self.examples),
        }


class Key(NamedTuple):
    user_id: str
    window_end_ms: int


class Expected(NamedTuple):
    """One closed window of the reference."""

    profile: Profile
    scores: WindowScores
    # The history was truncated by order of arrival at the window, which differs from the topic's
    # order if the job runs in parallel. Values that depend on history are then not compared.
    truncated: bool
    # The same for the memory, which holds more windows, this one included. Value curves read it.
    memory_truncated: bool

    @property
    def compares_values(self) -> bool:
        return not (self.truncated or self.memory_truncated)


# --- windows ----------------------------------------------------------------------------------


def compare_windows(
    comparison: Comparison, session: Session, expected: Mapping[Key, Expected]
) -> dict[Key, frozenset[str]]:
    """Compares every profile_delta; returns the stored active rules of each."""
    active: dict[Key, frozenset[str]] = {}
    for delta in scan(session, "profile_delta", queries.StoredDelta):
        key = Key(delta.user_id, delta.window_end_ms)
        active[key] = frozenset(delta.active_rules or ())
        if key in expected:
            compare_window(comparison, key, delta, expected[key])
        else:
            comparison.add_difference("window", key, "stored", None)
    for key in expected.keys() - active.keys():
        comparison.add_difference("window", key, None, f"{expected[key].profile.events} events")
    return active


def compare_window(
    comparison: Comparison, key: Key, delta: queries.StoredDelta, expected: Expected
) -> None:
    profile, scores, truncated, *_ = expected
    content = json.loads(delta.delta)
    comparison.equal("window start", key, delta.window_start_ms, profile.window_start_ms)
    comparison.equal("digests", key, delta.digests, b"".join(profile.digests))
    comparison.equal("events", key, delta.events, profile.events)
    comparison.near("amount", key, delta.amount, profile.amount, FEATURE_TOLERANCE)
    window = content["window"]
    for name in ("events", "counts", "items", "categories", "devices", "sessions"):
        comparison.equal(f"window {name}", key, window[name], getattr(profile, name))
    for name in ("amount", "return_amount"):
        comparison.near(
            f"window {name}", key, window[name], getattr(profile, name), FEATURE_TOLERANCE
        )
    for side in ("before", "after"):
        features = getattr(profile, side)
        _compare_features(
            comparison, (*key, side), content[side], features, with_model=expected.compares_values
        )
    comparison.ties["truncated history"] += truncated
    comparison.ties["truncated memory"] += expected.memory_truncated
    if not truncated:
        before, after = scores.values.embedding_before[0], scores.values.embedding_after[0]
        distance = 1 - float(before @ after)
        comparison.near("surprise", key, delta.surprise, profile.surprise, MODEL_TOLERANCE)
        comparison.near(
            "embedding_distance", key, delta.embedding_distance, distance, MODEL_TOLERANCE
        )
        _compare_moved(comparison, key, content["moved_categories"], profile.moved_categories)


def _compare_features(
    comparison: Comparison,
    where: Any,
    job: Mapping[str, float],
    reference: Mapping[str, float | None],
    with_model: bool,
) -> None:
    comparison.equal("feature names", where, set(job), set(reference))
    for name, value in reference.items():
        tolerance = FEATURE_TOLERANCE
        if name in FROM_MODEL:
            if not with_model:
                continue
            tolerance = MODEL_TOLERANCE
        elif name.endswith("_std"):
            mean = reference[name.removesuffix("std") + "mean"]
            tolerance = STD_TOLERANCE * max(1.0, mean)
        comparison.near(name, where, job.get(name), value, tolerance)


def _compare_moved(
    comparison: Comparison,
    key: Key,
    job: Sequence[Sequence[Any]],
    reference: Sequence[tuple[str, float, float]],
) -> None:
    if len(job) != len(reference):
        comparison.add_difference("moved categories", key, job, reference)
        return
    if [name for name, *_ in job] != [name for name, *_ in reference]:
        sizes = (
            [divergence_part(before, after) for _, before, after in each]
            for each in (job, reference)
        )
        same_sizes = all(abs(a - b) <= 2 * SHARE_TOLERANCE for a, b in zip(*sizes, strict=True))
        comparison.ties["moved categories"] += same_sizes
        if not same_sizes:
            comparison.add_difference("moved categories", key, job, reference)
        return
    for (name, before, after), (_, *shares) in zip(job, reference, strict=True):
        comparison.near("share before", (*key, name), before, shares[0], SHARE_TOLERANCE)
        comparison.near("share after", (*key, name), after, shares[1], SHARE_TOLERANCE)


# --- profiles ---------------------------------------------------------------------------------


def compare_profiles(
    comparison: Comparison,
    session: Session,
    expected: Mapping[Key, Expected],
    versions: Collection[str],
) -> int:
    """Compares the user_profile of each user's last window; returns their number."""
    last = {key.user_id: key for key in expected}  # a user's windows are in time order
    users = set()
    for stored in scan(session, "user_profile", queries.StoredProfile):
        users.add(stored.user_id)
        key = last.get(stored.user_id)
        if key is None:
            comparison.add_difference("user", stored.user_id, "stored", None)
            continue
        comparison.equal("last window", key, stored.window_end_ms, key.window_end_ms)
        if stored.window_end_ms == key.window_end_ms:
            content = json.loads(stored.profile)
            _compare_profile(comparison, key, stored, content, expected[key].profile)
            _compare_features(
                comparison,
                key,
                content["features"],
                expected[key].profile.after,
                with_model=expected[key].compares_values,
            )
            if not expected[key].truncated:
                _compare_with_history(comparison, key, stored, content, expected[key], versions)
    for user_id in last.keys() - users:
        comparison.add_difference("user", user_id, None, "a profile")
    return len(users)


def _compare_profile(
    comparison: Comparison,
    key: Key,
    stored: queries.StoredProfile,
    content: dict[str, Any],
    profile: Profile,
) -> None:
    for name in ("churn", "expected_spend", "recency_days", "purchases_decayed", "amount_decayed"):
        comparison.equal(f"column {name}", key, getattr(stored, name), content["features"][name])
    comparison.equal("events_total", key, stored.events_total, profile.after["events"])
    for name, shares in zip(
        ("activity_hour", "activity_weekday"), profile.activity_after, strict=True
    ):
        _compare_arrays(comparison, name, key, content[name], shares, SHARE_TOLERANCE)


def _compare_with_history(
    comparison: Comparison,
    key: Key,
    stored: queries.StoredProfile,
    content: dict[str, Any],
    expected: Expected,
    versions: Collection[str],
) -> None:
    profile, scores, *_ = expected
    comparison.equal("model_version", key, stored.model_version in versions, True)
    if not expected.memory_truncated:
        _compare_curves(comparison, key, content.get("value_curves"), scores.values.value_curves)
    _compare_arrays(
        comparison,
        "embedding",
        key,
        stored.embedding,
        scores.values.embedding_after[0],
        MODEL_TOLERANCE,
    )
    affinity = dict(profile.affinity_after)
    _compare_shares(comparison, "category_affinity", key, content["category_affinity"], affinity)
    shares = map(float, scores.values.interests_after_p[0])
    interests = dict(zip(scores.interests, shares, strict=True))
    _compare_shares(comparison, "interests", key, content["interests"], interests)
    items = scores.next_items
    if content["next_items"] != items:
        near = len(set(items) & set(content["next_items"])) >= len(items) - 1
        comparison.ties["next_items"] += near
        comparison.equal("next_items", key, near, True)

    job = set(stored.segments or ())
    is_open = expected.memory_truncated or _near_threshold(profile.after["churn"])
    if job ^ profile.segments == {"churn_risk"} and is_open:
        comparison.ties["segments"] += 1
    else:
        comparison.equal("segments", key, sorted(job), sorted(profile.segments))


def _compare_curves(
    comparison: Comparison, key: Key, job: dict[str, Any] | None, curves: CurvesAfter | None
) -> None:
    comparison.equal("has curves", key, job is not None, curves is not None)
    if job is None or curves is None:
        return
    comparison.equal("after_days", key, job["after_days"], curves.after_days)
    comparison.equal("horizon_days", key, job["horizon_days"], curves.horizon_days)
    for name, value_BHK in curves.values_BHK.items():
        for horizon, of_job, expected in zip(
            job["horizon_days"], job[name], value_BHK[0].tolist(), strict=True
        ):
            place = (*key, name, horizon)
            _compare_arrays(comparison, "curve", place, of_job, expected, CURVE_TOLERANCE)


def _near_threshold(churn: float | None) -> bool:
    return churn is not None and abs(churn - 0.5) < MODEL_TOLERANCE


def _compare_arrays(
    comparison: Comparison,
    kind: str,
    key: Key,
    job: Sequence[float],
    reference: Sequence[float],
    tolerance: float,
) -> None:
    comparison.equal(f"{kind} size", key, len(job), len(reference))
    if len(job) == len(reference):
        comparison.near(kind, key, float(np.abs(np.subtract(job, reference)).max()), 0.0, tolerance)


def _compare_shares(
    comparison: Comparison, kind: str, key: Key, job: dict[str, float], reference: dict[str, float]
) -> None:
    """Compares the ten largest shares. Names that differ must be as large as the smallest share."""
    comparison.equal(f"{kind} count", key, len(job), len(reference))
    for name in job.keys() & reference.keys():
        comparison.near(kind, (*key, name), job[name], reference[name], SHARE_TOLERANCE)
    smallest = min(reference.values(), default=0.0)
    for name in job.keys() ^ reference.keys():
        share = job.get(name, reference.get(name, math.inf))
        tie = abs(share - smallest) <= 2 * SHARE_TOLERANCE
        comparison.ties[kind] += tie
        if not tie:
            comparison.add_difference(kind, (*key, name), job.get(name), reference.get(name))


def scan(session: Session, table: str, kind: type[NamedTuple]) -> Iterator[Any]:
    """Yields every row of a table as a `kind`, whose fields in _ms are timestamp columns."""
    columns = ", ".join(
        f"to_unix_timestamp({name.removesuffix('_ms')}) AS {name}" if name.endswith("_ms") else name
        for name in kind._fields
    )
    for row in session.execute(f"SELECT {columns} FROM {table}", timeout=60):
        yield kind(*row)
