"""Groups features that mean one thing to an analyst. A group is one possible reason of a score."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from liveprofile.features.entity.order import ORDER_DEPTH, SCORED_TYPES
from liveprofile.features.entity.past_events import SPANS_MS
from liveprofile.wire.scored_events import ENTITY_NAMES


class FeatureGroup(NamedTuple):
    code: str  # must stay the same: alerts and cases refer to it
    title: str
    features: list[int]  # indices into the model's features
    shown: list[int]  # those of them that a reason may show


class _GroupPattern(NamedTuple):
    """Features of a group by name, without the owner (user, device, ...) and the time span."""

    code: str
    title: str
    shown: tuple[str, ...]
    hidden: tuple[str, ...] = ()  # part of the group, but no reason shows them


_AMOUNTS = ("usual_amount", "amount_spread", "amount_z", "large", "mean_ratio", "mean_amount")
_HISTORY = ("list_days", "list_events", "earlier_purchases")
_FRAUDS = ("frauds", "fraud_labels", "risk", "days_since_last_fraud")
_FRAUD_RATES = ("fraud_rate", "days_since_first_fraud", "risk_since_first_fraud")
_USER_GROUPS = (
    _GroupPattern("AMOUNT", "amount unlike this user's", ("amount_ratio", "large"), _AMOUNTS),
    _GroupPattern(
        "BURST",
        "pace of this user",
        ("purchases", "amount", "events", "seconds_since_purchase"),
        ("seconds_since_event",),
    ),
    _GroupPattern(
        "ORDER",
        "order of this user's last events",
        (
            *(f"type_{back}_before" for back in range(1, ORDER_DEPTH + 1)),
            *(f"gap_{back}_before" for back in range(2, ORDER_DEPTH + 1)),
            *(f"events_since_{name}" for name in SCORED_TYPES),
            *(f"seconds_since_{name}" for name in ("return", "coupon", "follow", "share")),
        ),
    ),
    _GroupPattern("TINY_AMOUNTS", "amounts as of a card test", ("tiny", "tiny_share")),
    _GroupPattern("NEW_DEVICE", "device of this user", ("new_device", "devices")),
    _GroupPattern("NEW_PLACE", "place of this user", ("new_place", "places")),
    _GroupPattern("NEW_SHOP", "shop of this user", ("new_shop", "shops")),
    _GroupPattern("NEW_ADDRESS", "address of this user", ("new_address", "addresses")),
    _GroupPattern("COUPONS", "coupons of this user", ("coupons", "coupon_ids", "new_coupon")),
    _GroupPattern("RETURNS", "returns of this user", ("returns",)),
    _GroupPattern("LOGINS", "logins of this user", ("logins", "seconds_since_login")),
    _GroupPattern("USER_FRAUDS", "frauds known of this user", _FRAUDS, _FRAUD_RATES),
    _GroupPattern("USER_AGE", "how long this user is known", _HISTORY, ("settled",)),
)
_ENTITY_GROUPS = (
    _GroupPattern("{}_USERS", "users of this {}", ("users", "new_user_share")),
    _GroupPattern(
        "{}_BURST", "pace at this {}", ("events", "purchases", "amount"), ("seconds_since_event",)
    ),
    _GroupPattern(
        "{}_AMOUNTS",
        "amounts at this {}",
        ("amount_ratio", "tiny", "large"),
        (*_AMOUNTS, "tiny_share"),
    ),
    _GroupPattern("{}_FRAUDS", "frauds known at this {}", _FRAUDS, _FRAUD_RATES),
    _GroupPattern("{}_AGE", "how long this {} is known", _HISTORY, ("settled",)),
)
_EVENT_GROUPS = (_GroupPattern("TIME", "time of day", ("hour",), ("night", "weekend")),)


@cache  # grouping 400 names takes milliseconds, and each alert waits for its reasons
def feature_groups(names: tuple[str, ...]) -> tuple[FeatureGroup, ...]:
    """Returns the groups that have features among `names`. A feature is in one group at most."""
    groups = _match_groups("", _EVENT_GROUPS, names) + _match_groups("user", _USER_GROUPS, names)
    if "amount" in names:  # the amount means little without the user's usual amounts
        groups = [
            group._replace(features=[*group.features, names.index("amount")])
            if group.code == "AMOUNT"
            else group
            for group in groups
        ]
    for entity in ENTITY_NAMES:
        patterns = tuple(
            pattern._replace(
                code=pattern.code.format(entity.upper()), title=pattern.title.format(entity)
            )
            for pattern in _ENTITY_GROUPS
        )
        groups += _match_groups(entity, patterns, names)
    return tuple(groups)


def _match_groups(
    owner: str, patterns: tuple[_GroupPattern, ...], names: Sequence[str]
) -> list[FeatureGroup]:
    stems = {index: _stem(owner, name) for index, name in enumerate(names)}
    groups = []
    for pattern in patterns:
        shown = [index for index, stem in stems.items() if stem in pattern.shown]
        hidden = [index for index, stem in stems.items() if stem in pattern.hidden]
        features = sorted({*shown, *hidden})
        if shown:
            groups.append(FeatureGroup(pattern.code, pattern.title, features, shown))
    return groups


def _stem(owner: str, name: str) -> str:
    """Returns the name without owner and span, or "" if it belongs to another owner."""
    if owner and not name.startswith(f"{owner}_"):
        return ""
    name = name.removeprefix(f"{owner}_") if owner else name
    stem, _, span = name.rpartition("_")
    return stem if span in SPANS_MS else name
