"""Chooses the users of a campaign, and its control group.

A user's expected gain is margin x expected spend x response probability - cost of the contact. The
model's expected spend and the response are those of users who are left alone or who were contacted
in the past: only the control group tells what this campaign changes.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from itertools import compress, islice
from typing import Any, NamedTuple

import numpy as np

from liveprofile.errors import InputError
from liveprofile.rules.conditions import Condition, ConditionError, parse_condition
from liveprofile.storage.queries import StoredProfile
from liveprofile.units import DAY_MS

# What a condition may read: typed columns of a profile, and these of its features.
COLUMNS = ("churn", "expected_spend", "recency_days", "purchases_decayed", "amount_decayed")
FEATURES = (
    "windows",
    "events",
    "purchases",
    "amount",
    "purchase_windows",
    "purchase_count_mean",
    "purchase_count_std",
    "purchase_amount_mean",
    "purchase_amount_std",
)
TREATMENT, CONTROL = "treatment", "control"
_BATCH = 2_000


class Cap(NamedTuple):
    """A user is left out with so many contacts of other campaigns in the days before the start."""

    contacts: int
    days: int


class Campaign(NamedTuple):
    """What a plan is about."""

    name: str
    start_ms: int  # event time from which on outcomes count
    control_share: float
    cost: float  # of a contact
    cap: Cap | None = None


class Wish(NamedTuple):
    """Whom a campaign shall reach, and what it brings."""

    campaign: Campaign
    condition: Condition | None = None
    segments: frozenset[str] = frozenset()  # users of one of them; empty: of any
    opted_out: Collection[str] = ()
    margin: float = 1.0  # share of the spend that is gain
    response: float | None = None  # probability of a purchase; None: 1 - churn
    budget: float | None = None  # sum of costs; None: no limit


class Target(NamedTuple):
    """A user who fits the campaign. Only the treatment group of its plan is contacted."""

    user_id: str
    group: str  # treatment or control; "": not chosen
    segments: tuple[str, ...]
    churn: float
    expected_spend: float
    expected_gain: float
    window_start_ms: int  # of the profile


class Plan(NamedTuple):
    targets: list[Target]
    left_out: dict[str, int]  # reason: number of users who fit but are not in the plan


def condition_of(text: str, name: str = "--when") -> Condition:
    """Compiles a condition over COLUMNS and FEATURES.

    Raises InputError with the position; `name` is that of the option or field.
    """
    try:
        return parse_condition(text, dict.fromkeys((*COLUMNS, *FEATURES), "number"), {})
    except ConditionError as error:
        raise InputError(f"{name}, character {error.position + 1}: {error.reason}") from None


def candidates(profiles: Iterable[StoredProfile], wish: Wish) -> Iterator[Target]:
    """The users who fit the condition and are in one of the segments."""
    remaining = (
        each
        for each in profiles
        if not wish.segments or not wish.segments.isdisjoint(each.segments)
    )
    while batch := list(islice(remaining, _BATCH)):
        fits = np.ones(len(batch), bool)
        if wish.condition is not None:
            columns = {name: _column(batch, name) for name in wish.condition.names}
            fits = wish.condition(columns, len(batch))
        for each in compress(batch, fits):
            response = 1 - each.churn if wish.response is None else wish.response
            gain = wish.margin * each.expected_spend * response - wish.campaign.cost
            segments = tuple(each.segments)
            values = (each.churn, each.expected_spend, gain, each.window_start_ms)
            yield Target(each.user_id, "", segments, *values)


def _column(batch: list[StoredProfile], name: str) -> np.ndarray:
    values = (
        getattr(each, name) if name in COLUMNS else (each.profile.get("features") or {}).get(name)
        for each in batch
    )
    return np.array([np.nan if value is None else value for value in values], float)


def choose(
    found: Iterable[Target],
    wish: Wish,
    excluded: Mapping[str, Container[str]] = {},
    allows: Callable[[str], bool] = lambda user_id: True,
) -> Plan:
    """Chooses users by expected gain until the budget is spent; most gain first.

    Users without a gain are left out. Control users cost nothing: they are the users whom the
    campaign would have contacted. excluded: users to leave out, by reason. allows: whether a user
    allows marketing.
    """
    excluded = {"excluded by file": wish.opted_out, **excluded}
    targets: list[Target] = []
    left_out: Counter[str] = Counter()
    spent, campaign = 0.0, wish.campaign
    for user in sorted(found, key=lambda each: (-each.expected_gain, each.user_id)):
        reasons = (name for name, users in excluded.items() if user.user_id in users)
        if not allows(user.user_id):
            left_out["no marketing consent"] += 1
        elif reason := next(reasons, None):
            left_out[reason] += 1
        elif user.expected_gain <= 0:
            left_out["no expected gain"] += 1
        elif wish.budget is not None and spent + campaign.cost > wish.budget:
            left_out["budget"] += 1
        else:
            control = is_control(campaign.name, user.user_id, campaign.control_share)
            spent += 0 if control else campaign.cost
            targets.append(user._replace(group=CONTROL if control else TREATMENT))
    return Plan(targets, dict(left_out))


def summary_of(plan: Plan, wish: Wish) -> dict[str, Any]:
    """What a plan costs and brings."""
    treated = [target for target in plan.targets if target.group == TREATMENT]
    users = len(plan.targets)
    rate = sum(1 - target.churn for target in plan.targets) / users if users else None
    return {
        "treatment": len(treated),
        "control": users - len(treated),
        "cost": wish.campaign.cost * len(treated),
        "expected_gain": sum(target.expected_gain for target in treated),
        "expected_purchase_rate": rate,
        "left_out": plan.left_out,
    }


class Contact(NamedTuple):
    """A stored contact of a user."""

    start_ms: int  # of the campaign
    campaign: str


def is_at_cap(contacts: Iterable[Contact], own: Contact, cap: Cap) -> bool:
    """Whether a user with these contacts must not get the contact `own`.

    Contacts of campaigns that start later count too, unless `own` is stored already: of two
    campaigns that were planned at once, the one that starts first keeps the user.
    """
    stored = set(contacts)
    others = {each for each in stored if each.campaign != own.campaign}
    recent = {each for each in others if each.start_ms >= own.start_ms - cap.days * DAY_MS}
    if own in stored:
        recent = {each for each in recent if each < own}
    return len(recent) >= cap.contacts


def is_control(campaign: str, user_id: str, share: float) -> bool:
    """Whether a user is in the control group, of about `share` of all users.

    The hash is salted with the campaign's name: the groups of two campaigns are independent, and
    planning a campaign again gives the same groups.
    """
    text = f"{campaign}\x1f{user_id}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(text, digest_size=8, person=b"liveprofile-ctrl").digest()
    return int.from_bytes(digest, "big") < share * 2.0**64
