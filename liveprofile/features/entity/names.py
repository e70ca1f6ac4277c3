"""The names of all features, each with its unit and what it means."""

from __future__ import annotations

from typing import NamedTuple

from liveprofile.features.entity.columns import (
    COUNTED,
    DISTINCT_SPANS,
    ENTITY_RATIO_SPANS,
    LARGE,
    MEAN_SPANS,
    NEW_SPANS,
    PLURAL,
    SPANS,
    TINY_AMOUNT,
    TINY_SPANS,
    USER_RATIO_SPANS,
)
from liveprofile.features.entity.labels import LABEL_SPANS, SPREE
from liveprofile.features.entity.lists import ENTITIES


class Name(NamedTuple):
    unit: str  # count, money, share, ratio, seconds, days, hour, 0/1
    words: str


SCORED_TYPES = ("purchase", "return", "login", "coupon", "follow", "share")
_LENGTHS = {"m": "minute", "h": "hour", "d": "day"}


def _span_words(span: str) -> str:
    number, length = int(span[:-1]), _LENGTHS[span[-1]]
    return f"in the last {length}" if number == 1 else f"in the last {number} {length}s"


def _over(what: str, unit: str, words: str, spans: tuple[str, ...]) -> dict[str, Name]:
    return {f"{what}_{span}": Name(unit, f"{words} {_span_words(span)}") for span in spans}


def _of_event() -> dict[str, Name]:
    names = {
        "amount": Name("money", "amount of the event"),
        "hour": Name("hour", "hour of the day, UTC"),
        "weekend": Name("0/1", "Saturday or Sunday, UTC"),
        "night": Name("0/1", "before 7 in the morning, UTC"),
    }
    return names | {f"is_{one}": Name("0/1", f"the event is a {one}") for one in SCORED_TYPES}


def _of_any(ratio_spans: tuple[str, ...], amount_spans: tuple[str, ...]) -> dict[str, Name]:
    names = _over("events", "count", "events", SPANS)
    names |= _over("amount", "money", "amount of purchases", amount_spans)
    names |= _over("mean_amount", "money", "mean amount of a purchase", MEAN_SPANS)
    names["earlier_purchases"] = Name("count", "earlier purchases in the list")
    for end, since in (("", "earlier purchases"), ("_30d", "earlier purchases of 30 days")):
        names |= {
            f"usual_amount{end}": Name("money", f"mean amount of {since}"),
            f"amount_spread{end}": Name("money", f"standard deviation of the amount of {since}"),
            f"amount_ratio{end}": Name("ratio", f"amount over the mean of {since}"),
            f"amount_z{end}": Name("ratio", f"spreads of amount above the mean of {since}"),
        }
    names |= _over("large", "count", f"purchases above {LARGE:g} times the usual", ratio_spans)
    names |= _over("mean_ratio", "ratio", "mean of purchases over the then usual", ratio_spans)
    names |= _over("tiny", "count", f"purchases of at most {TINY_AMOUNT:g}", TINY_SPANS)
    names |= _over(
        "tiny_share", "share", f"purchases of at most {TINY_AMOUNT:g}, of all", TINY_SPANS
    )
    names["list_events"] = Name("count", "events in the list")
    names["list_days"] = Name("days", "age of the oldest event in the list")
    names["seconds_since_event"] = Name("seconds", "since the event before")
    names |= _over("frauds", "count", "known frauds among the events", LABEL_SPANS)
    names |= _over("fraud_rate", "share", "known frauds, of the events", LABEL_SPANS)
    names |= _over("fraud_labels", "count", "frauds that became known", LABEL_SPANS)
    delayed = " before the labels' delay"
    for span in LABEL_SPANS:
        words = _span_words(span) + delayed
        names[f"settled_{span}"] = Name("count", f"events {words}")
        names[f"risk_{span}"] = Name("share", f"known frauds, of the events {words}")
    spree = _span_words(SPREE) + delayed
    names["days_since_last_fraud"] = Name("days", "since the latest known fraud")
    names["days_since_first_fraud"] = Name("days", f"since the first known fraud {spree}")
    names["risk_since_first_fraud"] = Name("share", "known frauds, of all settled since then")
    return names


def _of_user() -> dict[str, Name]:
    names = _of_any(USER_RATIO_SPANS, SPANS)
    for what in COUNTED:
        names |= _over(what, "count", what, SPANS)
    for entity, plural in PLURAL.items():
        names |= _over(plural, "count", f"different {plural.replace('_', ' ')}", DISTINCT_SPANS)
        names[f"new_{entity}"] = Name("0/1", f"never seen with this {entity} before")
    names["seconds_since_purchase"] = Name("seconds", "since the purchase before")
    names["seconds_since_login"] = Name("seconds", "since the login before")
    return names


def _of_entity() -> dict[str, Name]:
    names = _of_any(ENTITY_RATIO_SPANS, MEAN_SPANS)
    names |= _over("purchases", "count", "purchases", MEAN_SPANS)
    names |= _over("users", "count", "different users", DISTINCT_SPANS)
    return names | _over("new_user_share", "share", "events of users new to it", NEW_SPANS)


def _owned(owner: str, names: dict[str, Name]) -> dict[str, Name]:
    return {
        f"{owner}_{what}": Name(name.unit, f"of the {owner}: {name.words}")
        for what, name in names.items()
    }


NAMES: dict[str, Name] = _of_event() | _owned("user", _of_user())
for _entity in ENTITIES:
    NAMES |= _owned(_entity, _of_entity())
