"""Compares stored windows and profiles with the reference, for tests/support/compare.py."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from cassandra.cluster import Session

from liveprofile.attributes.computed import values_at
from liveprofile.storage import queries
from tests.reference.profile import Profile, divergence_part
from tests.support.model_scores import WindowScores

EXAMPLES = 5
FEATURE_TOLERANCE = 2e-6  # the job keeps six decimals
STD_TOLERANCE = 1e-5  # times the size of the mean: a difference of squares loses half of the digits
SUBTRACTED_TOLERANCE = 1e-7  # times a window's amount, which the job subtracts for what was before
SHARE_TOLERANCE = 1e-4  # the job keeps four decimals
CURVE_TOLERANCE = 0.011  # the job keeps two decimals
MODEL_TOLERANCE = 1e-4  # float32, whose sums in a batch have another order
FROM_MODEL = ("churn", "expected_spend")
WINDOW_COUNTS = ("events", "counts", "items", "categories", "devices", "sessions")
PROFILE_COLUMNS = (*FROM_MODEL, "recency_days", "purchases_decayed", "amount_decayed")


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

    def equal(
        self, kind: str, where: Any, job: Any, reference: Any, tolerance: float = 0.0
    ) -> None:
        """A number may differ by `tolerance`, times the reference if that is above 1.

        A number in an array may differ by `tolerance`.
        """
        if tolerance and isinstance(reference, list | np.ndarray):
            self.equal(f"{kind} size", where, np.shape(job), np.shape(reference))
            if np.shape(job) == np.shape(reference):
                difference = float(np.abs(np.subtract(job, reference)).max())
                self.equal(kind, where, difference, 0.0, tolerance)
        elif not tolerance or job is None or reference is None:
            if job != reference:
                self.add_difference(kind, where, job, reference)
        elif not abs(job - reference) <= tolerance * max(1.0, abs(reference)):
            self.add_difference(kind, where, job, reference)

    def add_difference(self, kind: str, where: Any, job: Any, reference: Any) -> None:
        self.differences[kind] += 1
        if len(self.examples[kind]) < EXAMPLES:
            self.examples[kind].append(f"{where}: job {job!r}, reference {reference!r}"[:400])

    def as_json(self) -> dict[str, Any]:
        return {"ok": self.ok} | vars(self)


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
    profile, values = expected.profile, expected.scores.values
    content = json.loads(delta.delta)
    window = content["window"]
    comparison.equal("window start", key, delta.window_start_ms, profile.window_start_ms)
    comparison.equal("digests", key, delta.digests, b"".join(profile.digests))
    comparison.equal("events", key, delta.events, profile.events)
    comparison.equal("amount", key, delta.amount, profile.amount, FEATURE_TOLERANCE)
    for name in (*WINDOW_COUNTS, "amount", "return_amount"):
        tolerance = 0.0 if name in WINDOW_COUNTS else FEATURE_TOLERANCE
        comparison.equal(f"window {name}", key, window[name], getattr(profile, name), tolerance)
    for side in ("before", "after"):
        _compare_features(comparison, (*key, side), content[side], expected, side)
    comparison.ties["truncated history"] += expected.truncated
    comparison.ties["truncated memory"] += expected.memory_truncated
    if not expected.truncated:
        distance = 1 - float(values.embedding_before[0] @ values.embedding_after[0])
        for name, reference in (("surprise", profile.surprise), ("embedding_distance", distance)):
            comparison.equal(name, key, getattr(delta, name), reference, MODEL_TOLERANCE)
        _compare_moved(comparison, key, content["moved_categories"], profile.moved_categories)


def _compare_features(
    comparison: Comparison, where: Any, job: Mapping[str, float], expected: Expected, side: str
) -> None:
    reference = getattr(expected.profile, side)
    comparison.equal("feature names", where, set(job), set(reference))
    truncated = expected.truncated or expected.memory_truncated
    for name in reference.keys() - (FROM_MODEL if truncated else ()):
        tolerance = MODEL_TOLERANCE if name in FROM_MODEL else FEATURE_TOLERANCE
        if name.endswith("_std"):
            mean = reference[name.removesuffix("std") + "mean"]
            tolerance = STD_TOLERANCE * max(1.0, abs(mean))
            tolerance += SUBTRACTED_TOLERANCE * abs(expected.profile.amount)
        comparison.equal(name, where, job.get(name), reference[name], tolerance)


def _compare_moved(
    comparison: Comparison,
    key: Key,
    job: list[list[Any]],
    reference: list[tuple[str, float, float]],
) -> None:
    if [name for name, *_ in job] == [name for name, *_ in reference]:
        for (name, *found), (_, *shares) in zip(job, reference, strict=True):
            comparison.equal("moved share", (*key, name), found, shares, SHARE_TOLERANCE)
        return
    sizes = [[divergence_part(*shares) for _, *shares in each] for each in (job, reference)]
    is_tie = len(job) == len(reference) and np.allclose(*sizes, rtol=0, atol=2 * SHARE_TOLERANCE)
    comparison.ties["moved categories"] += is_tie
    if not is_tie:
        comparison.add_difference("moved categories", key, job, reference)


# --- profiles ---------------------------------------------------------------------------------


def compare_profiles(
    comparison: Comparison,
    session: Session,
    expected: Mapping[Key, Expected],
    versions: Collection[str],
) -> set[str]:
    """Compares the user_profile of each user's last window; returns the stored users."""
    last = {key.user_id: key for key in expected}  # a user's windows are in time order
    users: set[str] = set()
    for stored in scan(session, "user_profile", queries.StoredProfile):
        users.add(stored.user_id)
        key = last.get(stored.user_id)
        if key is None:
            comparison.add_difference("user", stored.user_id, "stored", None)
            continue
        comparison.equal("last window", key, stored.window_end_ms, key.window_end_ms)
        if stored.window_end_ms == key.window_end_ms:
            _compare_profile(comparison, key, stored, expected[key], versions)
    for user_id in last.keys() - users:
        comparison.add_difference("user", user_id, None, "a profile")
    return users


def _compare_profile(
    comparison: Comparison,
    key: Key,
    stored: queries.StoredProfile,
    expected: Expected,
    versions: Collection[str],
) -> None:
    profile, content = expected.profile, json.loads(stored.profile)
    computed = values_at(content["attribute_tiles"], key.window_end_ms)
    comparison.equal("computed attributes", key, set(computed), set(profile.computed))
    for name, reference in profile.computed.items():
        comparison.equal(name, key, computed.get(name), reference, FEATURE_TOLERANCE)
    for name in PROFILE_COLUMNS:
        comparison.equal(f"column {name}", key, getattr(stored, name), content["features"][name])
    comparison.equal("events_total", key, stored.events_total, profile.after["events"])
    names = ("activity_hour", "activity_weekday")
    for name, shares in zip(names, profile.activity_after, strict=True):
        comparison.equal(name, key, content[name], shares, SHARE_TOLERANCE)
    _compare_features(comparison, key, content["features"], expected, "after")
    if expected.truncated:
        return
    scores, values = expected.scores, expected.scores.values
    comparison.equal("model_version", key, stored.model_version in versions, True)
    if not expected.memory_truncated:
        curves, found = values.value_curves, content["value_curves"]
        for name in ("after_days", "horizon_days"):
            comparison.equal(name, key, found[name], getattr(curves, name))
        for name, value_BHK in curves.values_BHK.items():
            comparison.equal(f"curve {name}", key, found[name], value_BHK[0], CURVE_TOLERANCE)
    embedding = values.embedding_after[0]
    comparison.equal("embedding", key, stored.embedding, embedding, MODEL_TOLERANCE)
    interests = zip(scores.interests, map(float, values.interests_after_p[0]), strict=False)
    for name, shares in ("category_affinity", profile.affinity_after), ("interests", interests):
        _compare_shares(comparison, name, key, content[name], dict(shares))
    if content["next_items"] != scores.next_items:
        same = len(set(scores.next_items) & set(content["next_items"]))
        near = same >= len(scores.next_items) - 1
        comparison.ties["next_items"] += near
        comparison.equal("next_items", key, near, True)

    segments, churn = set(stored.segments or ()), profile.after["churn"]
    near = churn is not None and abs(churn - 0.5) < MODEL_TOLERANCE
    if segments ^ profile.segments == {"churn_risk"} and (expected.memory_truncated or near):
        comparison.ties["segments"] += 1
    else:
        comparison.equal("segments", key, sorted(segments), sorted(profile.segments))


def _compare_shares(
    comparison: Comparison, kind: str, key: Key, job: dict[str, float], reference: dict[str, float]
) -> None:
    """Compares the ten largest shares. Names that differ must be as large as the smallest share."""
    comparison.equal(f"{kind} count", key, len(job), len(reference))
    for name in job.keys() & reference.keys():
        comparison.equal(kind, (*key, name), job[name], reference[name], SHARE_TOLERANCE)
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
