"""Chooses the users of a campaign.

A user's expected gain is margin x expected spend x response probability - cost of the contact. The
model's expected spend and the response are those of users who are left alone or who were contacted
in the past: only the control group tells what this campaign changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from liveprofile.campaigns.control_group import is_control
from liveprofile.errors import InputError
from liveprofile.rules.conditions import Condition, ConditionError, parse_condition
from liveprofile.storage.queries import StoredProfile

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
NO_CONSENT = "no marketing consent"
_BATCH = 2_000


class Economics(NamedTuple):
    """What a contact costs and brings."""

    cost: float  # of a contact
    margin: float  # share of the spend that is gain
    response: float | None  # probability of a purchase; None: 1 - churn
    budget: float | None  # sum of costs; None: no limit


class Candidate(NamedTuple):
    """A user who fits the campaign."""

    user_id: str
    segments: tuple[str, ...]
    churn: float
    expected_spend: float
    expected_gain: float


class Target(NamedTuple):
    """A user of the plan. Only the treatment group is contacted."""

    user_id: str
    group: Literal["treatment", "control"]
    segments: tuple[str, ...]
    churn: float
    expected_spend: float
    expected_gain: float


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


def candidates(
    profiles: Iterable[StoredProfile],
    condition: Condition | None,
    segments: frozenset[str],
    economics: Economics,
) -> list[Candidate]:
    """Returns the users who fit the condition and are in one of the segments; empty: in any."""
    found: list[Candidate] = []
    batch: list[StoredProfile] = []
    for profile in profiles:
        if segments and segments.isdisjoint(profile.segments):
            continue
        batch.append(profile)
        if len(batch) == _BATCH:
            found += _fitting(batch, condition, economics)
            batch = []
    return found + _fitting(batch, condition, economics)


def choose(
    found: Iterable[Candidate],
    campaign: str,
    control_share: float,
    economics: Economics,
    excluded: Callable[[str], str | None],
) -> Plan:
    """Chooses users by expected gain until the budget is spent; most gain first.

    Users without a gain are left out. Control users cost nothing: they are the users whom the
    campaign would have contacted. excluded: the reason to leave out a user, or None.
    """
    targets: list[Target] = []
    left_out: Counter[str] = Counter()
    spent = 0.0
    for user in sorted(found, key=lambda each: (-each.expected_gain, each.user_id)):
        if reason := excluded(user.user_id):
            left_out[reason] += 1
        elif user.expected_gain <= 0:
            left_out["no expected gain"] += 1
        elif economics.budget is not None and spent + economics.cost > economics.budget:
            left_out["budget"] += 1
        else:
            control = is_control(campaign, user.user_id, control_share)
            spent += 0 if control else economics.cost
            group = CONTROL if control else TREATMENT
            targets.append(Target(user.user_id, group, *user[1:]))
    return Plan(targets, dict(left_out))


def exclusion(
    opted_out: Container[str],
    open_cases: Container[str],
    at_cap: Container[str],
    allows: Callable[[str], bool] = lambda user_id: True,
) -> Callable[[str], str | None]:
    """Returns the function that names why a user must not be contacted.

    allows: whether a user allows marketing.
    """

    def reason(user_id: str) -> str | None:
        if not allows(user_id):
            return NO_CONSENT
        if user_id in opted_out:
            return "excluded by file"
        if user_id in open_cases:
            return "open fraud case"
        return "frequency cap" if user_id in at_cap else None

    return reason


def _fitting(
    batch: list[StoredProfile], condition: Condition | None, economics: Economics
) -> list[Candidate]:
    fits = np.ones(len(batch), bool)
    if condition is not None and batch:
        columns = {name: _column(batch, name) for name in condition.names}
        fits = condition(columns, len(batch))
    return [_candidate(each, economics) for each, fit in zip(batch, fits, strict=True) if fit]


def _column(batch: list[StoredProfile], name: str) -> np.ndarray:
    values = (
        getattr(each, name) if name in COLUMNS else (each.profile.get("features") or {}).get(name)
        for each in batch
    )
    return np.array([np.nan if value is None else value for value in values], float)


def _candidate(profile: StoredProfile, economics: Economics) -> Candidate:
    response = 1 - profile.churn if economics.response is None else economics.response
    gain = economics.margin * profile.expected_spend * response - economics.cost
    segments = tuple(profile.segments)
    return Candidate(profile.user_id, segments, profile.churn, profile.expected_spend, gain)


class Cap(BaseModel):
    """A user is left out with so many contacts of other campaigns in a span before the start."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    contacts: int = Field(ge=1)
    span_ms: int = Field(ge=1)


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
    recent = {each for each in others if each.start_ms >= own.start_ms - cap.span_ms}
    if own in stored:
        recent = {each for each in recent if each < own}
    return len(recent) >= cap.contacts
