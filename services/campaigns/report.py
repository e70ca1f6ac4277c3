"""What a campaign changed: treatment against control, with 95 % intervals."""

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from cassandra.cluster import Session

from liveprofile.storage.queries import WindowChange, scan_changes
from services.campaigns.plan import CONTROL, TREATMENT, Campaign, Target

_LEVEL = 0.95


class Outcome(NamedTuple):
    """What a user did after the campaign's start."""

    bought: bool
    spend: float


class Difference(NamedTuple):
    """Treatment minus control, with a 95 % interval."""

    value: float
    low: float
    high: float


class Uplift(NamedTuple):
    """The result of a group of users. Differences are None without a control group."""

    users: dict[str, int]  # by treatment and control
    purchase_rate: dict[str, float | None]
    spend_per_user: dict[str, float | None]
    rate_difference: Difference | None
    spend_difference: Difference | None


NOTHING = Outcome(False, 0.0)


def report_on(
    session: Session,
    campaign: Campaign,
    targets: Sequence[Target],
    end_ms: int,
    window_ms: int,
    watch: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> dict[str, Uplift]:
    """Compares treatment and control from the campaign's start to end_ms.

    window_ms: length of a window. Raises ServiceError.
    """
    users = {target.user_id for target in targets}
    changes = watch(scan_changes(session, campaign.start_ms, end_ms + window_ms))
    return uplift_by_segment(targets, outcomes(changes, users, campaign.start_ms, end_ms))


def outcomes(
    changes: Iterable[WindowChange], users: Container[str], start_ms: int, end_ms: int
) -> dict[str, Outcome]:
    """Returns the outcome of each of the users with a purchase.

    A window counts that starts from start_ms on and before end_ms: one that began before the start
    has purchases of before.
    """
    found: dict[str, Outcome] = {}
    for change in changes:
        if change.user_id not in users or not start_ms <= change.window_start_ms < end_ms:
            continue
        if ((change.delta.get("window") or {}).get("counts") or {}).get("purchase"):
            before = found.get(change.user_id, NOTHING)
            found[change.user_id] = Outcome(True, before.spend + change.amount)
    return found


def uplift_by_segment(
    targets: Iterable[Target], outcomes: Mapping[str, Outcome]
) -> dict[str, Uplift]:
    """Returns the result of all users ("all") and of each segment at the time of the plan.

    outcomes: by user; users without one did nothing.
    """
    groups: dict[str, dict[str, list[Outcome]]] = {}
    for target in targets:
        for name in ("all", *target.segments):
            of_group = groups.setdefault(name, {TREATMENT: [], CONTROL: []})
            of_group[target.group].append(outcomes.get(target.user_id, NOTHING))
    return {name: uplift(*groups[name].values()) for name in groups}


def uplift(treated: Sequence[Outcome], control: Sequence[Outcome]) -> Uplift:
    """Compares two groups."""
    groups = {TREATMENT: treated, CONTROL: control}
    bought = {name: sum(each.bought for each in group) for name, group in groups.items()}
    spend = {name: np.array([each.spend for each in group]) for name, group in groups.items()}
    users = {name: len(group) for name, group in groups.items()}
    rates = {name: bought[name] / users[name] if users[name] else None for name in groups}
    means = {name: float(spend[name].mean()) if users[name] else None for name in groups}
    if not all(users.values()):
        return Uplift(users, rates, means, None, None)
    rate = rate_difference(bought[TREATMENT], users[TREATMENT], bought[CONTROL], users[CONTROL])
    return Uplift(users, rates, means, rate, mean_difference(spend[TREATMENT], spend[CONTROL]))


def rate_difference(bought: int, users: int, control_bought: int, control_users: int) -> Difference:
    """The difference of two rates with the hybrid score interval (Newcombe 1998, method 10)."""
    from scipy import stats  # a server that reports nothing does not load it

    rate, control = bought / users, control_bought / control_users
    (low, high), (control_low, control_high) = (
        stats.binomtest(*counts).proportion_ci(_LEVEL, "wilson")
        for counts in ((bought, users), (control_bought, control_users))
    )
    below = math.hypot(rate - low, control_high - control)
    above = math.hypot(high - rate, control - control_low)
    return Difference(rate - control, rate - control - below, rate - control + above)


def mean_difference(values: np.ndarray, control: np.ndarray) -> Difference | None:
    """The difference of two means with Welch's interval (1947); None with a group of one."""
    from scipy import stats

    if min(len(values), len(control)) < 2:
        return None
    value = float(values.mean() - control.mean())
    if not values.var() + control.var():
        return Difference(value, value, value)
    low, high = stats.ttest_ind(values, control, equal_var=False).confidence_interval(_LEVEL)
    return Difference(value, float(low), float(high))


def report_as_json(about: Campaign, end_ms: int, results: Mapping[str, Uplift]) -> dict[str, Any]:
    """The report as `campaign report --json` and the read API give it."""
    return {
        "name": about.name,
        "start_ms": about.start_ms,
        "end_ms": end_ms,
        "has_control": bool(results) and results["all"].users["control"] > 0,
        "groups": {
            name: {
                field: value._asdict() if isinstance(value, Difference) else value
                for field, value in result._asdict().items()
            }
            for name, result in results.items()
        },
    }
