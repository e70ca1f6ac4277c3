"""Stored windows and profiles against those of the reference; tests/support/compare.py does the rest."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from cassandra.cluster import Session

from liveprofile.storage import queries
from models.profile.inference import ProfileModel, Scores
from tests.reference.profile import Profile

EXAMPLES = 5
FEATURE_TOLERANCE = 2e-6  # the job keeps six decimals
STD_TOLERANCE = 1e-5  # of the mean: a difference of squares loses half of the digits
SHARE_TOLERANCE = 1e-4  # the job keeps four decimals
MODEL_TOLERANCE = 1e-4  # float32, summed in another order in a batch
FROM_MODEL = ("churn", "expected_spend")


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


class Key(NamedTuple):
    user_id: str
    window_end_ms: int


class Expected(NamedTuple):
    """One closed window by the reference."""

    profile: Profile
    scores: Scores
    # Part of its history was cut by order of arrival at the window, which is not the topic's where
    # a job runs in parallel: what depends on history then can't be told.
    cut: bool


# --- windows ----------------------------------------------------------------------------------


def compare_windows(
    found: Comparison, session: Session, expected: Mapping[Key, Expected]
) -> dict[Key, frozenset[str]]:
    """Every profile_delta; returns the rules it says were true."""
    active: dict[Key, frozenset[str]] = {}
    for delta in scan(session, "profile_delta", queries.StoredDelta):
        key = Key(delta.user_id, delta.window_end_ms)
        active[key] = frozenset(delta.active_rules or ())
        if key in expected:
            compare_window(found, key, delta, expected[key])
        else:
            found.differs("window", key, "stored", None)
    for key in expected.keys() - active.keys():
        found.differs("window", key, None, f"{expected[key].profile.events} events")
    return active


def compare_window(
    found: Comparison, key: Key, delta: queries.StoredDelta, expected: Expected
) -> None:
    profile, scores, cut = expected
    content = json.loads(delta.delta)
    found.equal("window start", key, delta.window_start_ms, profile.window_start_ms)
    found.equal("digests", key, delta.digests, b"".join(profile.digests))
    found.equal("events", key, delta.events, profile.events)
    found.near("amount", key, delta.amount, profile.amount, FEATURE_TOLERANCE)
    window = content["window"]
    for name in ("events", "counts", "items", "categories", "devices", "sessions"):
        found.equal(f"window {name}", key, window[name], getattr(profile, name))
    for name in ("amount", "return_amount"):
        found.near(f"window {name}", key, window[name], getattr(profile, name), FEATURE_TOLERANCE)
    for side in ("before", "after"):
        features = getattr(profile, side)
        _compare_features(found, (*key, side), content[side], features, with_model=not cut)
    found.ties["cut history"] += cut
    if not cut:
        distance = 1 - float(scores.embedding_before[0] @ scores.embedding_after[0])
        found.near("surprise", key, delta.surprise, profile.surprise, MODEL_TOLERANCE)
        found.near("embedding_distance", key, delta.embedding_distance, distance, MODEL_TOLERANCE)
        _compare_moved(found, key, content["moved_categories"], profile.moved_categories)


def _compare_features(
    found: Comparison,
    where: Any,
    job: Mapping[str, float],
    reference: Mapping[str, float | None],
    with_model: bool,
) -> None:
    found.equal("feature names", where, set(job), set(reference))
    for name, value in reference.items():
        tolerance = FEATURE_TOLERANCE
        if name in FROM_MODEL:
            if not with_model:
                continue
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


def compare_profiles(
    found: Comparison, session: Session, expected: Mapping[Key, Expected], model: ProfileModel
) -> int:
    """Every user_profile, which is the user's last window; returns how many there are."""
    last = {key.user_id: key for key in expected}  # of a user in order of time
    users = set()
    for stored in scan(session, "user_profile", queries.StoredProfile):
        users.add(stored.user_id)
        key = last.get(stored.user_id)
        if key is None:
            found.differs("user", stored.user_id, "stored", None)
            continue
        found.equal("last window", key, stored.window_end_ms, key.window_end_ms)
        if stored.window_end_ms == key.window_end_ms:
            content = json.loads(stored.profile)
            _compare_profile(found, key, stored, content, expected[key].profile)
            _compare_features(
                found, key, content["features"], expected[key].profile.after,
                with_model=not expected[key].cut,
            )  # fmt: skip
            if not expected[key].cut:
                _compare_with_history(found, key, stored, content, expected[key], model)
    for user_id in last.keys() - users:
        found.differs("user", user_id, None, "a profile")
    return len(users)


def _compare_profile(
    found: Comparison,
    key: Key,
    stored: queries.StoredProfile,
    content: dict[str, Any],
    profile: Profile,
) -> None:
    for name in ("churn", "expected_spend", "recency_days", "purchases_decayed", "amount_decayed"):
        found.equal(f"column {name}", key, getattr(stored, name), content["features"][name])
    found.equal("events_total", key, stored.events_total, profile.after["events"])
    for name, shares in zip(
        ("activity_hour", "activity_weekday"), profile.activity_after, strict=True
    ):
        _compare_arrays(found, name, key, content[name], shares, SHARE_TOLERANCE)


def _compare_with_history(
    found: Comparison,
    key: Key,
    stored: queries.StoredProfile,
    content: dict[str, Any],
    expected: Expected,
    model: ProfileModel,
) -> None:
    profile, scores, _ = expected
    found.equal("model_version", key, stored.model_version, model.version)
    _compare_arrays(
        found, "embedding", key, stored.embedding, scores.embedding_after[0], MODEL_TOLERANCE
    )
    affinity = dict(profile.affinity_after)
    _compare_shares(found, "category_affinity", key, content["category_affinity"], affinity)
    names = [model.categories[index] for index in scores.interests_after[0]]
    interests = dict(zip(names, map(float, scores.interests_after_p[0]), strict=True))
    _compare_shares(found, "interests", key, content["interests"], interests)
    items = [model.items[index] for index in scores.next_items[0]]
    if content["next_items"] != items:
        near = len(set(items) & set(content["next_items"])) >= len(items) - 1
        found.ties["next_items"] += near
        found.equal("next_items", key, near, True)

    job = set(stored.segments or ())
    if job ^ profile.segments == {"churn_risk"} and _on_edge(profile.after["churn"]):
        found.ties["segments"] += 1
    else:
        found.equal("segments", key, sorted(job), sorted(profile.segments))


def _on_edge(churn: float | None) -> bool:
    return churn is not None and abs(churn - 0.5) < MODEL_TOLERANCE


def _compare_arrays(
    found: Comparison,
    what: str,
    key: Key,
    job: Sequence[float],
    reference: Sequence[float],
    tolerance: float,
) -> None:
    found.equal(f"{what} size", key, len(job), len(reference))
    if len(job) == len(reference):
        found.near(what, key, float(np.abs(np.subtract(job, reference)).max()), 0.0, tolerance)


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


def scan(session: Session, table: str, kind: type[NamedTuple]) -> Iterator[Any]:
    """Every row of a table; names that end in _ms are timestamps."""
    columns = ", ".join(
        f"to_unix_timestamp({name.removesuffix('_ms')}) AS {name}" if name.endswith("_ms") else name
        for name in kind._fields
    )
    for row in session.execute(f"SELECT {columns} FROM {table}", timeout=60):
        yield kind(*row)
