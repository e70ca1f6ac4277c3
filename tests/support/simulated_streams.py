"""Streams of the generator for tests of the event lane: small, seeded, in order of time."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from typing import Any

from liveprofile.simulator import Shop, ShopConfig, ShopDay
from tests.reference.entity_features import LETTERS
from tests.reference.profile import Record

RECORD_MS = 1_790_000_000_000
KEYS = ("event_id", "user_id", "device_id", "coupon_id")
ATTRIBUTES = ("shop_id", "address_id")
DEGREES_APART = 40.0

Event = dict[str, Any]


def shop(seed: int, users: int = 60, days: int = 3) -> list[Event]:
    """Ordinary users, takeovers and card tests; more than the lane scores."""
    config = ShopConfig(users=users, days=days, seed=seed, takeovers=2, card_tests=2, rings=0)
    return in_turn(event for day in Shop(config) for event in day.records())


def apart(day: ShopDay, prefix: str) -> list[Event]:
    """The day's events among users and entities of their own."""
    found = []
    for event in day.records():
        own = {name: prefix + event[name] for name in KEYS if name in event}
        shared = {name: prefix + value for name, value in event.get("attributes", {}).items()}
        place = event["place"] | {"lat": event["place"]["lat"] - DEGREES_APART}
        found.append(event | own | {"attributes": shared, "place": place})
    return in_turn(found)


def in_turn(events: Iterable[Event]) -> list[Event]:
    """In order of time; of several at one time the first stays: which of them is judged by which
    would be open."""
    by_time: dict[int, Event] = {}
    for event in events:
        by_time.setdefault(event["event_time"], event)
    return [by_time[time_ms] for time_ms in sorted(by_time)]


def payload(event: Event) -> bytes:
    return json.dumps(event, ensure_ascii=False).encode()


def with_oddities(events: Iterable[Event], seed: int) -> Iterator[bytes]:
    """Payloads in the events' order: some escaped, some users' without entities, some come again,
    and broken ones in between.

    All of a user's or none: an event without entities is complete before one with them, and of two
    of a user that come at once the second would be judged first.
    """
    rng = random.Random(seed)
    pending: list[bytes] = []
    for event in events:
        odd = rng.random()
        if event["user_id"].endswith("7"):
            kept = ("event_id", "user_id", "event_type", "event_time", "amount")
            event = {name: value for name, value in event.items() if name in kept}
        value = payload(event)
        if odd > 0.95:
            name = event["event_type"]
            value = value.replace(
                f'"{name}"'.encode(), f'"\\u{ord(name[0]):04x}{name[1:]}"'.encode()
            )
        yield value
        if pending and rng.random() < 0.3:
            yield pending.pop()
        if event["event_type"] in LETTERS and rng.random() < 0.08:
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


def records(payloads: Iterable[bytes | None]) -> list[Record]:
    """One partition's."""
    return [Record(0, offset, RECORD_MS, None, value) for offset, value in enumerate(payloads)]


def label(event: Event, verdict: str, time_ms: int) -> bytes:
    """A record of the topic risk-feedback."""
    cell = event.get("place")
    about = {name: event[name] for name in ("device_id", "coupon_id") if name in event}
    about |= {n: event["attributes"][n] for n in ATTRIBUTES if n in event.get("attributes", {})}
    if cell:
        about["place"] = ":".join(str(int(cell[name] * 100 // 1)) for name in ("lat", "lon"))
    return json.dumps(
        {
            "event_id": event["event_id"], "user_id": event["user_id"], "label": verdict,
            "analyst": "test", "event_time": event["event_time"], "time": time_ms, **about,
        }
    ).encode()  # fmt: skip
