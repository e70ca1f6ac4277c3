"""Plans and reports of stored profiles and deltas: what commands and the read API share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from cassandra.cluster import Session
from pydantic import ValidationError

from liveprofile.campaigns import contacts
from liveprofile.campaigns.control_group import detectable_effect
from liveprofile.campaigns.outcomes import outcomes
from liveprofile.campaigns.plan import (
    TREATMENT,
    Economics,
    Plan,
    candidates,
    choose,
    exclusion,
)
from liveprofile.campaigns.plan_file import Campaign, PlanFile
from liveprofile.campaigns.uplift import Uplift, uplift_by_segment
from liveprofile.errors import InputError
from liveprofile.rules.conditions import Condition
from liveprofile.storage.queries import scan_changes, scan_profiles

Row = TypeVar("Row")
Watch = Callable[[Iterable[Row]], Iterable[Row]]


class Wish(NamedTuple):
    """Whom a campaign shall reach."""

    campaign: Campaign
    economics: Economics
    condition: Condition | None
    segments: frozenset[str]  # users of one of them; empty: of any
    opted_out: Collection[str]


def campaign_of(**fields: Any) -> Campaign:
    """Raises InputError."""
    try:
        return Campaign(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(f"{key} {fields.get(key)!r}: {first['msg']}") from None


def plan_campaign(
    session: Session, wish: Wish, allows: Callable[[str], bool], watch: Watch = iter
) -> Plan:
    """Chooses among all stored profiles, by the values at the campaign's start.

    Users with an open fraud case are left out.

    allows: whether a user allows marketing. Raises ServiceError.
    """
    name, share = wish.campaign.name, wish.campaign.control_share
    start_ms = wish.campaign.start_ms
    profiles = (each.at(start_ms) for each in watch(scan_profiles(session)))
    found = candidates(profiles, wish.condition, wish.segments, wish.economics)
    users = [each.user_id for each in found]
    at_cap = contacts.users_at_cap(session, users, wish.campaign)
    open_cases = contacts.users_with_open_cases(session, users)
    excluded = exclusion(wish.opted_out, open_cases, at_cap, allows)
    return choose(found, name, share, wish.economics, excluded)


def summary_of(plan: Plan, wish: Wish) -> dict[str, Any]:
    """What a plan costs and brings, and the smallest change that it would show."""
    treated = [target for target in plan.targets if target.group == TREATMENT]
    users = len(plan.targets)
    rate = sum(1 - target.churn for target in plan.targets) / users if users else None
    share = wish.campaign.control_share
    effect = None if rate is None else detectable_effect(rate, users, share)
    return {
        "treatment": len(treated),
        "control": users - len(treated),
        "cost": wish.economics.cost * len(treated),
        "expected_gain": sum(target.expected_gain for target in treated),
        "expected_purchase_rate": rate,
        "detectable_change_of_rate": effect,
        "left_out": plan.left_out,
    }


def report_on(
    session: Session, plan: PlanFile, end_ms: int, window_ms: int, watch: Watch = iter
) -> Mapping[str, Uplift]:
    """Compares treatment and control from the campaign's start to end_ms.

    window_ms: length of a window. Raises ServiceError.
    """
    about, targets = plan
    users = {target.user_id for target in targets}
    changes = watch(scan_changes(session, about.start_ms, end_ms + window_ms))
    found = outcomes(changes, users, about.start_ms, end_ms)
    return uplift_by_segment(targets, found)


def report_as_json(about: Campaign, end_ms: int, results: Mapping[str, Uplift]) -> dict[str, Any]:
    """The report as `campaign report --json` and the read API give it."""
    return {
        "name": about.name,
        "start_ms": about.start_ms,
        "end_ms": end_ms,
        "has_control": bool(results) and results["all"].users["control"] > 0,
        "groups": {name: _group_as_json(result) for name, result in results.items()},
    }


def _group_as_json(result: Uplift) -> dict[str, Any]:
    fields = result._asdict()
    for name in ("rate_difference", "spend_difference"):
        difference = fields[name]
        fields[name] = None if difference is None else difference._asdict()
    return fields
