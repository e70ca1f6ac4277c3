"""Small seeded streams of the simulator for tests of the scoring pipeline, in time order."""

import json
import random
from collections.abc import Iterable, Iterator
from typing import Any

from intake.simulator import Shop, ShopConfig, ShopDay
from tests.reference.entity_features import TYPE_LETTERS
from tests.reference.windows import Record

RECORD_MS = 1_790_000_000_000
ID_FIELDS = ("event_id", "user_id", "device_id", "coupon_id")
ATTRIBUTE_FIELDS = ("shop_id", "address_id")
LATITUDE_SHIFT = 40.0

Event = dict[str, Any]


def simulated_shop(seed: int, users: int = 60, days: int = 3) -> list[Event]:
    """Events of ordinary users, account takeovers and card tests, of all types."""
    config = ShopConfig(users=users, days=days, seed=seed, takeovers=2, card_tests=2, rings=0)
    return one_event_per_time(event for day in Shop(config) for event in day.records())


def with_own_ids(day: ShopDay, prefix: str) -> list[Event]:
    """Returns the day's events with user ids and entities that no other event shares."""
    events = []
    for event in day.records():
        own = {name: prefix + event[name] for name in ID_FIELDS if name in event}
        shared = {name: prefix + value for name, value in event.get("attributes", {}).items()}
        place = event["place"] | {"lat": event["place"]["lat"] - LATITUDE_SHIFT}
        events.append(event | own | {"attributes": shared, "place": place})
    return one_event_per_time(events)


def one_event_per_time(events: Iterable[Event]) -> list[Event]:
    """Returns the events in time order, only the first of each millisecond.

    The order in which events of the same millisecond are scored is not defined.
    """
    by_time: dict[int, Event] = {}
    for event in events:
        by_time.setdefault(event["event_time"], event)
    return [by_time[time_ms] for time_ms in sorted(by_time)]


def payload(event: Event) -> bytes:
    return json.dumps(event, ensure_ascii=False).encode()


def irregular_payloads(events: Iterable[Event], seed: int) -> Iterator[bytes]:
    """Yields the payloads in order: some escaped, some without entities, duplicates, broken ones.

    Either all or none of a user's events lack entities. The pipeline completes an event without
    entities sooner, so of two events at once the second could be scored first.
    """
    rng = random.Random(seed)
    pending: list[bytes] = []
    for event in events:
        escape_draw = rng.random()
        if event["user_id"].endswith("7"):
            kept = ("event_id", "user_id", "event_type", "event_time", "amount")
            event = {name: value for name, value in event.items() if name in kept}
        value = payload(event)
        if escape_draw > 0.95:
            name = event["event_type"]
            value = value.replace(
                f'"{name}"'.encode(), f'"\\u{ord(name[0]):04x}{name[1:]}"'.encode()
            )
        yield value
        if pending and rng.random() < 0.3:
            yield pending.pop()
        if event["event_type"] in TYPE_LETTERS and rng.random() < 0.08:
            pending.append(value)
        if rng.random() < 0.02:
            broken = (
                b'{"event_type": "purchase", "user_id": "u"',
                payload(event | {"event_id": "", "event_type": "purchase"}),
                payload(event | {"event_time": "noon", "event_type": "login"}),
                payload(event | {"price": "dear", "event_type": "coupon"}),
                b"purchase",
            )
            yield rng.choice(broken)


def to_records(payloads: Iterable[bytes | None]) -> list[Record]:
    """Returns records of one partition."""
    return [Record(0, offset, RECORD_MS, None, value) for offset, value in enumerate(payloads)]


def label_payload(event: Event, verdict: str, time_ms: int) -> bytes:
    """Returns the payload of a record of the topic risk-feedback.

    verdict: "fraud" or "legitimate". time_ms: when the label was given.
    """
    place = event.get("place")
    entities = {name: event[name] for name in ("device_id", "coupon_id") if name in event}
    entities |= {
        n: event["attributes"][n] for n in ATTRIBUTE_FIELDS if n in event.get("attributes", {})
    }
    if place:
        entities["place"] = ":".join(str(int(place[name] * 100 // 1)) for name in ("lat", "lon"))
    return json.dumps(
        {
            "event_id": event["event_id"],
            "user_id": event["user_id"],
            "label": verdict,
            "analyst": "test",
            "event_time": event["event_time"],
            "time": time_ms,
            **entities,
        }
    ).encode()
