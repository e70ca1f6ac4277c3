"""Features by what they mean to a person: each group is one reason."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from liveprofile.features.entity.lists import ENTITIES
from liveprofile.features.entity.past import SPANS_MS
from models.fraud.model import SEQUENCE


class Group(NamedTuple):
    code: str  # stable: alerts and cases refer to it
    title: str
    features: list[int]  # places among the model's features
    told: list[int]  # of them those that a person may be told


class _Kind(NamedTuple):
    """Features by their name without owner and span."""

    code: str
    title: str
    told: tuple[str, ...]
    others: tuple[str, ...] = ()


_AMOUNTS = ("usual_amount", "amount_spread", "amount_z", "large", "mean_ratio", "mean_amount")
_HISTORY = ("list_days", "list_events", "earlier_purchases")
_FRAUDS = ("frauds", "fraud_labels", "risk", "days_since_last_fraud")
_FRAUDS_TOO = ("fraud_rate", "days_since_first_fraud", "risk_since_first_fraud")
_OF_USER = (
    _Kind("AMOUNT", "amount unlike this user's", ("amount_ratio", "large"), _AMOUNTS),
    _Kind(
        "BURST", "pace of this user", ("purchases", "amount", "events", "seconds_since_purchase"),
        ("seconds_since_event",),
    ),
    _Kind("TINY_AMOUNTS", "amounts as of a card test", ("tiny", "tiny_share")),
    _Kind("NEW_DEVICE", "device of this user", ("new_device", "devices")),
    _Kind("NEW_PLACE", "place of this user", ("new_place", "places")),
    _Kind("NEW_SHOP", "shop of this user", ("new_shop", "shops")),
    _Kind("NEW_ADDRESS", "address of this user", ("new_address", "addresses")),
    _Kind("COUPONS", "coupons of this user", ("coupons", "coupon_ids", "new_coupon")),
    _Kind("RETURNS", "returns of this user", ("returns",)),
    _Kind("LOGINS", "logins of this user", ("logins", "seconds_since_login")),
    _Kind("USER_FRAUDS", "frauds known of this user", _FRAUDS, _FRAUDS_TOO),
    _Kind("USER_AGE", "how long this user is known", _HISTORY, ("settled",)),
)  # fmt: skip
_OF_ENTITY = (
    _Kind("{}_USERS", "users of this {}", ("users", "new_user_share")),
    _Kind(
        "{}_BURST", "pace at this {}", ("events", "purchases", "amount"), ("seconds_since_event",)
    ),
    _Kind(
        "{}_AMOUNTS", "amounts at this {}", ("amount_ratio", "tiny", "large"),
        (*_AMOUNTS, "tiny_share"),
    ),
    _Kind("{}_FRAUDS", "frauds known at this {}", _FRAUDS, _FRAUDS_TOO),
    _Kind("{}_AGE", "how long this {} is known", _HISTORY, ("settled",)),
)  # fmt: skip
_OF_EVENT = (
    _Kind("TIME", "time of day", ("hour",), ("night", "weekend")),
    _Kind("SEQUENCE", "order and timing of this user's events", (SEQUENCE,)),
)


@cache  # each alert waits for its reasons, and to sort 400 names takes milliseconds
def groups(names: tuple[str, ...]) -> tuple[Group, ...]:
    """Those of the model's features that have any; a feature is in one group at most."""
    found = _groups("", _OF_EVENT, names) + _groups("user", _OF_USER, names)
    if "amount" in names:  # without its user's past an amount means little
        found = [
            group._replace(features=[*group.features, names.index("amount")])
            if group.code == "AMOUNT"
            else group
            for group in found
        ]
    for entity in ENTITIES:
        kinds = tuple(
            kind._replace(code=kind.code.format(entity.upper()), title=kind.title.format(entity))
            for kind in _OF_ENTITY
        )
        found += _groups(entity, kinds, names)
    return tuple(found)


def _groups(owner: str, kinds: tuple[_Kind, ...], names: Sequence[str]) -> list[Group]:
    stems = {place: _stem(owner, name) for place, name in enumerate(names)}
    found = []
    for kind in kinds:
        told = [place for place, stem in stems.items() if stem in kind.told]
        others = [place for place, stem in stems.items() if stem in kind.others]
        features = sorted({*told, *others})
        if told:
            found.append(Group(kind.code, kind.title, features, told))
    return found


def _stem(owner: str, name: str) -> str:
    """The name without owner and span; "" if it is another owner's."""
    if owner and not name.startswith(f"{owner}_"):
        return ""
    name = name.removeprefix(f"{owner}_") if owner else name
    stem, _, span = name.rpartition("_")
    return stem if span in SPANS_MS else name
