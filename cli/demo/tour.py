"""Which users the tour looks at, and what it says of them: plain data in, plain data out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from liveprofile.audit.account import Account
from liveprofile.storage.queries import Delta, Profile, StoredFlag
from udfs.profile.assemble import FEATURES, Side, segments

FLAGS_OF_A_RULE = 2
SEVERITIES = ("critical", "high", "medium", "low")
# A first window moves everything: a change says more of a user with a past.
MIN_WINDOWS = 10
LONG_BREAK_DAYS = 21
ACTIONS = {
    "notify_customer_service": "tell service team",
    "step_up_verification": "verify identity",
    "limit_trading": "limit purchases",
    "restrict_trading": "stop purchases",
}


class Change(NamedTuple):
    """A user's latest window and why it is worth a look."""

    why: str
    profile: Profile
    delta: Delta
    segments_before: list[str]


class Explained(NamedTuple):
    """A flag in words."""

    flag: StoredFlag
    what: str
    usual: str
    action: str


class Tour(NamedTuple):
    """All that the tour shows."""

    changes: list[Change]
    explained: list[Explained]
    flags: int  # raised in all
    account: Account
    horizon_days: int  # of the model's forecasts


def choose_changes(found: Iterable[tuple[Profile, Delta]]) -> list[Change]:
    """Up to three different users, each the one for whom a kind of change is largest."""
    changes = [
        Change("", profile, delta, segments_before(profile, delta)) for profile, delta in found
    ]
    settled = [
        change for change in changes if change.delta.delta["after"]["windows"] >= MIN_WINDOWS
    ]
    chosen: list[Change] = []
    for why, size in (
        ("came back after a long break", _regained),
        ("is likely to spend more", _spend_gained),
        ("changed taste most", _taste_moved),
    ):
        taken = {change.profile.user_id for change in chosen}
        left = [c for c in settled or changes if c.profile.user_id not in taken]
        if left:
            chosen.append(max(left, key=size)._replace(why=why))
    return chosen


def segments_before(profile: Profile, delta: Delta) -> list[str]:
    """As the job names them, of the features before the window."""
    before = delta.delta["before"]
    if not before["windows"]:
        return []
    features = np.array([[np.nan if before[name] is None else before[name] for name in FEATURES]])
    return segments(Side(features), np.array(["coupon_user" in profile.segments]))[0]


def _regained(change: Change) -> float:
    before, after = change.delta.delta["before"], change.delta.delta["after"]
    away = (before["recency_days"] or 0.0) >= LONG_BREAK_DAYS
    return (before["churn"] - after["churn"]) + away


def _spend_gained(change: Change) -> float:
    before, after = change.delta.delta["before"], change.delta.delta["after"]
    return after["expected_spend"] - before["expected_spend"]


def _taste_moved(change: Change) -> float:
    return sum(abs(after - before) for _, before, after in change.delta.delta["moved_categories"])


def clearest(flags: Sequence[StoredFlag]) -> list[Explained]:
    """Of each rule its strongest flags, each of another user; the most severe rules first."""
    by_rule: dict[str, dict[str, StoredFlag]] = {}
    for flag in sorted(flags, key=lambda flag: -flag.value):
        by_rule.setdefault(flag.rule_id, {}).setdefault(flag.user_id, flag)
    rules = sorted(
        (list(users.values()) for users in by_rule.values()),
        key=lambda found: SEVERITIES.index(found[0].severity),
    )
    return [explain(flag) for found in rules for flag in found[:FLAGS_OF_A_RULE]]


def explain(flag: StoredFlag) -> Explained:
    """The evidence as a sentence with what is usual beside it."""
    return Explained(
        flag, *_in_words(flag), ACTIONS.get(flag.action, flag.action.replace("_", " "))
    )


def _in_words(flag: StoredFlag) -> tuple[str, str]:
    known: Mapping[str, Any] = flag.evidence
    if "amount" in known:
        usual = f"{known['mean']:,.2f} ± {known['std']:,.2f}"
        return f"spent {known['amount']:,.2f} in a day", usual
    if "n" in known:
        usual = f"{known['mean']:.1f} ± {known['std']:.1f}"
        return f"bought {known['n']:.0f} products in a day", usual
    if "events" in known:
        what = f"{known['events']:.0f} purchases unlike the past"
        return what, f"surprise < {flag.threshold:g}, now {flag.value:.1f}"
    return flag.message, f"below {flag.threshold:g}, now {flag.value:g}"
