"""The catalogue of event features: name, unit and description."""

from __future__ import annotations

from typing import NamedTuple

from liveprofile.features.entity.columns import (
    COUNTED_TYPES,
    DISTINCT_SPANS,
    LARGE_RATIO,
    MEAN_SPANS,
    NEW_SPANS,
    PLURAL,
    SPANS,
    TINY_AMOUNT,
    TINY_SPANS,
)
from liveprofile.features.entity.labels import LABEL_SPANS, SPREE_SPANS
from liveprofile.features.entity.order import ORDER_DEPTH, SCORED_TYPES
from liveprofile.wire.scored_events import ENTITY_NAMES


class Feature(NamedTuple):
    unit: str  # count, money, share, ratio, seconds, days, hour, 0/1, type
    description: str


TYPE_UNIT = "type"  # the position of an event type in SCORED_TYPES
_UNITS = {"m": "minute", "h": "hour", "d": "day"}


def _describe_span(span: str) -> str:
    number, unit = int(span[:-1]), _UNITS[span[-1]]
    return f"in the last {unit}" if number == 1 else f"in the last {number} {unit}s"


def _by_span(name: str, unit: str, description: str, spans: tuple[str, ...]) -> dict[str, Feature]:
    return {
        f"{name}_{span}": Feature(unit, f"{description} {_describe_span(span)}") for span in spans
    }


def _event_features() -> dict[str, Feature]:
    features = {
        "amount": Feature("money", "amount of the event"),
        "hour": Feature("hour", "hour of the day, UTC"),
        "weekend": Feature("0/1", "Saturday or Sunday, UTC"),
        "night": Feature("0/1", "before 7 in the morning, UTC"),
    }
    return features | {
        f"is_{event_type}": Feature("0/1", f"the event is a {event_type}")
        for event_type in SCORED_TYPES
    }


def _owner_features(amount_spans: tuple[str, ...]) -> dict[str, Feature]:
    """The features that users and entities share."""
    tiny = f"purchases of at most {TINY_AMOUNT:g}"
    features = _by_span("events", "count", "events", SPANS)
    features |= _by_span("amount", "money", "amount of purchases", amount_spans)
    features |= _by_span("mean_amount", "money", "mean amount of a purchase", MEAN_SPANS)
    features["earlier_purchases"] = Feature("count", "earlier purchases in the list")
    for suffix, past in (("", "earlier purchases"), ("_30d", "earlier purchases of 30 days")):
        features |= {
            f"usual_amount{suffix}": Feature("money", f"mean amount of {past}"),
            f"amount_spread{suffix}": Feature(
                "money", f"standard deviation of the amount of {past}"
            ),
            f"amount_ratio{suffix}": Feature("ratio", f"amount over the mean of {past}"),
            f"amount_z{suffix}": Feature(
                "ratio", f"standard deviations of amount above the mean of {past}"
            ),
        }
    features |= _by_span(
        "large", "count", f"purchases above {LARGE_RATIO:g} times the usual amount", MEAN_SPANS
    )
    features |= _by_span(
        "mean_ratio", "ratio", "mean of purchases over the usual amount at the time", MEAN_SPANS
    )
    features |= _by_span("tiny", "count", tiny, TINY_SPANS)
    features |= _by_span("tiny_share", "share", f"{tiny}, of all", TINY_SPANS)
    features["list_events"] = Feature("count", "events in the list")
    features["list_days"] = Feature("days", "age of the oldest event in the list")
    features["seconds_since_event"] = Feature("seconds", "since the previous event")
    features |= _by_span("frauds", "count", "known frauds among the events", LABEL_SPANS)
    features |= _by_span("fraud_rate", "share", "known frauds, of the events", LABEL_SPANS)
    features |= _by_span("fraud_labels", "count", "frauds that became known", LABEL_SPANS)
    delayed = " before the label delay"
    for span in LABEL_SPANS:
        when = _describe_span(span) + delayed
        features[f"settled_{span}"] = Feature("count", f"events with matured labels {when}")
        features[f"risk_{span}"] = Feature("share", f"known frauds, of the events {when}")
    features["days_since_last_fraud"] = Feature("days", "since the latest known fraud")
    for span in SPREE_SPANS:
        first = f"since the first known fraud {_describe_span(span)}{delayed}"
        features[f"days_since_first_fraud_{span}"] = Feature("days", first)
        features[f"risk_since_first_fraud_{span}"] = Feature(
            "share", f"known frauds, of all events with matured labels {first}"
        )
    return features


def _user_features() -> dict[str, Feature]:
    features = _owner_features(SPANS)
    for name in COUNTED_TYPES:
        features |= _by_span(name, "count", name, SPANS)
    for entity, plural in PLURAL.items():
        features |= _by_span(
            plural, "count", f"different {plural.replace('_', ' ')}", DISTINCT_SPANS
        )
        features[f"new_{entity}"] = Feature("0/1", f"never seen with this {entity} before")
    return features | _order_features()


def _order_features() -> dict[str, Feature]:
    features: dict[str, Feature] = {}
    for back in range(1, ORDER_DEPTH + 1):
        features[f"type_{back}_before"] = Feature(TYPE_UNIT, f"type of the event {back} before")
        if back > 1:
            features[f"gap_{back}_before"] = Feature(
                "seconds", f"from the event {back} before to the event {back - 1} before"
            )
    for name in SCORED_TYPES:
        features[f"seconds_since_{name}"] = Feature("seconds", f"since the previous {name}")
        features[f"events_since_{name}"] = Feature(
            "count", f"events since the previous {name}, this one included"
        )
    return features


def _entity_features() -> dict[str, Feature]:
    features = _owner_features(MEAN_SPANS)
    features |= _by_span("purchases", "count", "purchases", MEAN_SPANS)
    features |= _by_span("users", "count", "different users", DISTINCT_SPANS)
    return features | _by_span("new_user_share", "share", "events of users new to it", NEW_SPANS)


def _prefixed(owner: str, features: dict[str, Feature]) -> dict[str, Feature]:
    return {
        f"{owner}_{name}": Feature(feature.unit, f"of the {owner}: {feature.description}")
        for name, feature in features.items()
    }


EVENT_FEATURES: dict[str, Feature] = _event_features() | _prefixed("user", _user_features())
for _entity in ENTITY_NAMES:
    EVENT_FEATURES |= _prefixed(_entity, _entity_features())
# What only the order and the gaps of a user's events show. Trees read them if validation says so.
ORDER_FEATURES = tuple(
    f"user_{name}"
    for name in _order_features()
    if name not in ("seconds_since_purchase", "seconds_since_login")
)
