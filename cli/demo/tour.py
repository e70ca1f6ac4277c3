"""Selects the users and flags that the demo's tour shows. Pure functions on stored rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from liveprofile.audit.reconciliation import Reconciliation
from liveprofile.resources import product_path
from liveprofile.rules.flags import Severity
from liveprofile.segments.definitions import read_segments
from liveprofile.segments.evaluation import evaluate
from liveprofile.settings import Settings
from liveprofile.storage.queries import StoredDelta, StoredFlag, StoredProfile
from udfs.profile.assemble import FEATURES, FeatureColumns, segment_inputs

FLAGS_PER_RULE = 2
# The first windows of a user change every feature, so users with a longer history are preferred.
MIN_WINDOWS = 10
LONG_BREAK_DAYS = 21
ACTIONS = {
    "notify_customer_service": "tell service team",
    "step_up_verification": "verify identity",
    "limit_trading": "limit purchases",
    "restrict_trading": "stop purchases",
}


class UserChange(NamedTuple):
    """The change by a user's latest window."""

    reason: str  # why the tour shows this user
    profile: StoredProfile
    delta: StoredDelta
    segments_before: list[str]


class ExplainedFlag(NamedTuple):
    """A flag described for a person."""

    flag: StoredFlag
    observed: str
    usual: str
    action: str


class Tour(NamedTuple):
    """The data that the tour shows."""

    changes: list[UserChange]
    explained: list[ExplainedFlag]
    flags: int  # number of all flags
    account: Reconciliation
    horizon_days: int  # forecast horizon of the model


def largest_changes(rows: Iterable[tuple[StoredProfile, StoredDelta]]) -> list[UserChange]:
    """Returns up to three users: for each kind of change, the user with the largest change."""
    changes = [
        UserChange("", profile, delta, segments_before(profile, delta)) for profile, delta in rows
    ]
    with_history = [
        change for change in changes if change.delta.delta["after"]["windows"] >= MIN_WINDOWS
    ]
    chosen: list[UserChange] = []
    for reason, size in (
        ("came back after a long break", _reactivation),
        ("is likely to spend more", _spend_increase),
        ("changed taste most", _taste_change),
    ):
        chosen_users = {change.profile.user_id for change in chosen}
        candidates = [
            change
            for change in with_history or changes
            if change.profile.user_id not in chosen_users
        ]
        if candidates:
            chosen.append(max(candidates, key=size)._replace(reason=reason))
    return chosen


def segments_before(profile: StoredProfile, delta: StoredDelta) -> list[str]:
    """The user's shipped segments before the window, computed as the job does."""
    before = delta.delta["before"]
    if not before["windows"]:
        return []
    features = np.array([[np.nan if before[name] is None else before[name] for name in FEATURES]])
    start_ms = np.array([delta.window_start_ms])
    after = profile.profile
    inputs = segment_inputs(
        FeatureColumns(features),
        np.array([after.get("used_coupon", False)]),
        start_ms,
        [after.get("interests", {})],
        [after.get("category_affinity", {})],
    )
    segments = read_segments(product_path(Settings().segments))
    return sorted(evaluate(segments, inputs).names("ACTIVE")[0])


def _reactivation(change: UserChange) -> float:
    before, after = change.delta.delta["before"], change.delta.delta["after"]
    had_long_break = (before["recency_days"] or 0.0) >= LONG_BREAK_DAYS
    return (before["churn"] - after["churn"]) + had_long_break


def _spend_increase(change: UserChange) -> float:
    before, after = change.delta.delta["before"], change.delta.delta["after"]
    return after["expected_spend"] - before["expected_spend"]


def _taste_change(change: UserChange) -> float:
    return sum(abs(after - before) for _, before, after in change.delta.delta["moved_categories"])


def strongest_flags(flags: Sequence[StoredFlag]) -> list[ExplainedFlag]:
    """Returns the flags with the highest values of each rule, each of another user.

    The most severe rules come first.
    """
    by_rule: dict[str, dict[str, StoredFlag]] = {}
    for flag in sorted(flags, key=lambda flag: -flag.value):
        by_rule.setdefault(flag.rule_id, {}).setdefault(flag.user_id, flag)
    flags_by_rule = sorted(
        (list(by_user.values()) for by_user in by_rule.values()),
        key=lambda rule_flags: -Severity(rule_flags[0].severity).rank,
    )
    return [explain(flag) for rule_flags in flags_by_rule for flag in rule_flags[:FLAGS_PER_RULE]]


def explain(flag: StoredFlag) -> ExplainedFlag:
    """Describes a flag's evidence and the user's usual value."""
    observed, usual = _observed_and_usual(flag)
    action = ACTIONS.get(flag.action, flag.action.replace("_", " "))
    return ExplainedFlag(flag, observed, usual, action)


def _observed_and_usual(flag: StoredFlag) -> tuple[str, str]:
    evidence: Mapping[str, Any] = flag.evidence
    if "amount" in evidence:
        usual = f"{evidence['mean']:,.2f} ± {evidence['std']:,.2f}"
        return f"spent {evidence['amount']:,.2f} in a day", usual
    if "n" in evidence:
        usual = f"{evidence['mean']:.1f} ± {evidence['std']:.1f}"
        return f"bought {evidence['n']:.0f} products in a day", usual
    if "events" in evidence:
        observed = f"{evidence['events']:.0f} purchases unlike the past"
        return observed, f"surprise < {flag.threshold:g}, now {flag.value:.1f}"
    return flag.message, f"below {flag.threshold:g}, now {flag.value:g}"
