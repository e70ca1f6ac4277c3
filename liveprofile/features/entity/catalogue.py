"""The catalogue of event features: name, unit and description."""

from typing import NamedTuple

from liveprofile.features.entity.columns import (
    COUNTED_TYPES,
    DISTINCT_SPANS,
    LABEL_SPANS,
    LARGE_RATIO,
    MEAN_SPANS,
    NEW_SPANS,
    ORDER_DEPTH,
    PLURAL,
    SCORED_TYPES,
    SPANS,
    SPREE_SPANS,
    TINY_AMOUNT,
    TINY_SPANS,
)
from liveprofile.wire.scored_events import ENTITY_NAMES


class Feature(NamedTuple):
    unit: str  # count, money, share, ratio, seconds, days, hour, 0/1, type
    description: str


TYPE_UNIT = "type"  # the position of an event type in SCORED_TYPES
_UNITS = {"m": "minute", "h": "hour", "d": "day"}
_TINY = f"purchases of at most {TINY_AMOUNT:g}"
_DELAYED = "{span} before the label delay"
# Name, unit, description, and spans if there is a feature for each.
_Row = tuple[str, str, str, tuple[str, ...]]
_EVENT: list[_Row] = [
    ("amount", "money", "amount of the event", ()),
    ("hour", "hour", "hour of the day, UTC", ()),
    ("weekend", "0/1", "Saturday or Sunday, UTC", ()),
    ("night", "0/1", "before 7 in the morning, UTC", ()),
    *((f"is_{name}", "0/1", f"the event is a {name}", ()) for name in SCORED_TYPES),
]
_AMOUNTS: list[_Row] = [
    row
    for suffix, past in (("", "earlier purchases"), ("_30d", "earlier purchases of 30 days"))
    for row in (
        (f"usual_amount{suffix}", "money", f"mean amount of {past}", ()),
        (f"amount_spread{suffix}", "money", f"standard deviation of the amount of {past}", ()),
        (f"amount_ratio{suffix}", "ratio", f"amount over the mean of {past}", ()),
        (
            f"amount_z{suffix}",
            "ratio",
            f"standard deviations of amount above the mean of {past}",
            (),
        ),
    )
]
_LARGE = f"purchases above {LARGE_RATIO:g} times the usual amount"
_FRAUDS: list[_Row] = [
    ("frauds", "count", "known frauds among the events", LABEL_SPANS),
    ("fraud_rate", "share", "known frauds, of the events", LABEL_SPANS),
    ("fraud_labels", "count", "frauds that became known", LABEL_SPANS),
    *(
        (name, unit, f"{words} {_DELAYED}", (span,))
        for span in LABEL_SPANS
        for name, unit, words in (
            ("settled", "count", "events with matured labels"),
            ("risk", "share", "known frauds, of the events"),
        )
    ),
    ("days_since_last_fraud", "days", "since the latest known fraud", ()),
    *(
        (
            f"{name}_since_first_fraud",
            unit,
            f"{words}since the first known fraud {_DELAYED}",
            (span,),
        )
        for span in SPREE_SPANS
        for name, unit, words in (
            ("days", "days", ""),
            ("risk", "share", "known frauds, of all events with matured labels "),
        )
    ),
]


def _shared(amount_spans: tuple[str, ...]) -> list[_Row]:
    """The features that users and entities share."""
    return [
        ("events", "count", "events", SPANS),
        ("amount", "money", "amount of purchases", amount_spans),
        ("mean_amount", "money", "mean amount of a purchase", MEAN_SPANS),
        ("earlier_purchases", "count", "earlier purchases in the list", ()),
        *_AMOUNTS,
        ("large", "count", _LARGE, MEAN_SPANS),
        ("mean_ratio", "ratio", "mean of purchases over the usual amount at the time", MEAN_SPANS),
        ("tiny", "count", _TINY, TINY_SPANS),
        ("tiny_share", "share", f"{_TINY}, of all", TINY_SPANS),
        ("list_events", "count", "events in the list", ()),
        ("list_days", "days", "age of the oldest event in the list", ()),
        ("seconds_since_event", "seconds", "since the previous event", ()),
        *_FRAUDS,
    ]


def _order() -> list[_Row]:
    rows: list[_Row] = []
    for back in range(1, ORDER_DEPTH + 1):
        rows.append((f"type_{back}_before", TYPE_UNIT, f"type of the event {back} before", ()))
        if back > 1:
            gap = f"from the event {back} before to the event {back - 1} before"
            rows.append((f"gap_{back}_before", "seconds", gap, ()))
    for name in SCORED_TYPES:
        count = f"events since the previous {name}, this one included"
        rows.append((f"seconds_since_{name}", "seconds", f"since the previous {name}", ()))
        rows.append((f"events_since_{name}", "count", count, ()))
    return rows


def _user() -> list[_Row]:
    rows = _shared(SPANS) + [(name, "count", name, SPANS) for name in COUNTED_TYPES]
    for entity, plural in PLURAL.items():
        rows.append((plural, "count", f"different {plural.replace('_', ' ')}", DISTINCT_SPANS))
        rows.append((f"new_{entity}", "0/1", f"never seen with this {entity} before", ()))
    return rows + _order()


def _entity() -> list[_Row]:
    return [
        *_shared(MEAN_SPANS),
        ("purchases", "count", "purchases", MEAN_SPANS),
        ("users", "count", "different users", DISTINCT_SPANS),
        ("new_user_share", "share", "events of users new to it", NEW_SPANS),
    ]


def _features(owner: str, rows: list[_Row]) -> dict[str, Feature]:
    prefix, of = (f"{owner}_", f"of the {owner}: ") if owner else ("", "")
    features = {}
    for name, unit, description, spans in rows:
        if not spans:
            features[prefix + name] = Feature(unit, of + description)
        for span in spans:
            number, word = int(span[:-1]), _UNITS[span[-1]]
            when = f"in the last {word}" if number == 1 else f"in the last {number} {word}s"
            text = description if "{span}" in description else f"{description} {{span}}"
            features[f"{prefix}{name}_{span}"] = Feature(unit, of + text.format(span=when))
    return features


EVENT_FEATURES: dict[str, Feature] = _features("", _EVENT) | _features("user", _user())
for _name in ENTITY_NAMES:
    EVENT_FEATURES |= _features(_name, _entity())
# What only the order and the gaps of a user's events show. Trees read them if validation says so.
ORDER_FEATURES = tuple(
    f"user_{name}"
    for name, *_ in _order()
    if name not in ("seconds_since_purchase", "seconds_since_login")
)
