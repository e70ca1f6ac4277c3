"""Seeded events of a small shop: every event type, one hot user, one user with known flags."""

import json
import random
from collections.abc import Iterator
from typing import Any

from liveprofile.units import HOUR_MS
from tests.reference.validation import EPOCH, TYPES
from tests.support.streams.seeded import Message

START_MS = 1_699_833_600_000  # Monday 2023-11-13 00:00 UTC

HOT_USER = "hot"
HOT_SHARE = 0.15
# Buys one item in every hour. In every 30th hour, a burst of expensive items raises flags.
REGULAR_USER = "regular"
BURST_EVERY_HOURS = 30

ITEMS, CATEGORIES = 60, 12
CHANNELS = ("app", "web", "shop")


def shop_events(
    seed: int, users: int, step_ms: int, start_ms: int = START_MS
) -> Iterator[dict[str, Any]]:
    """Yields events without end, in time order, `step_ms` apart; event_time in milliseconds."""
    rng = random.Random(seed)
    number, next_purchase_hour_ms = 0, start_ms - start_ms % HOUR_MS
    while True:
        time_ms = start_ms + number * step_ms
        if time_ms >= next_purchase_hour_ms + HOUR_MS // 2:
            hour = (next_purchase_hour_ms - START_MS) // HOUR_MS
            next_purchase_hour_ms += HOUR_MS
            burst = hour % BURST_EVERY_HOURS == BURST_EVERY_HOURS - 1
            for copy in range(8 if burst else 1):
                yield {
                    "event_id": f"regular-{seed}-{hour}-{copy}",
                    "user_id": REGULAR_USER,
                    "event_type": "purchase",
                    "event_time": time_ms,
                    "item_id": "bread",
                    "category_id": "food",
                    "price": 250.0 if burst else 20.0 + hour % 3,
                }
        yield _random_event(rng, f"{seed}-{number}", users, time_ms)
        number += 1


def _random_event(rng: random.Random, event_id: str, users: int, time_ms: int) -> dict[str, Any]:
    user = HOT_USER if rng.random() < HOT_SHARE else f"user-{rng.randrange(users)}"
    item = rng.randrange(ITEMS)
    event: dict[str, Any] = {
        "event_id": event_id,
        "user_id": user,
        "event_type": rng.choice(TYPES + ("view",) * 6 + ("purchase",) * 2),
        "event_time": time_ms,
    }
    if rng.random() < 0.9:
        event["item_id"] = rng.choice((item, f"item-{item}"))
        event["category_id"] = f"category-{item % CATEGORIES}"
    if rng.random() < 0.5:
        event["price"] = rng.choice((round(rng.uniform(0, 90), 2), str(rng.randrange(90))))
        event["quantity"] = rng.choice((None, 1, 2, "3"))
    if rng.random() < 0.2:
        event["amount"] = round(rng.uniform(1, 300), 2)
    if rng.random() < 0.3:
        event |= {
            "session_id": rng.randrange(5),
            "device_id": f"{user}-{rng.randrange(2)}",
            "channel": rng.choice(CHANNELS),
            "coupon_id": rng.choice((None, "", "SAVE5")),
            "place": rng.choice((None, {"lat": 48.137, "lon": "11.575"})),
            "tags": ["größe", "new"],
            "text": rng.choice(("schön", "日本", 'a "quoted" \\ line\n')),
            "attributes": {"depth": [1, {"two": None}]},
        }
    return event


def event_of(
    user_id: str, time_ms: int, event_id: str = "", kind: str = "view", **fields: Any
) -> dict[str, Any]:
    """An event with the required fields, and others."""
    required = {"event_id": event_id or f"{user_id}-{time_ms}", "user_id": user_id}
    return required | {"event_type": kind, "event_time": time_ms} | fields


CARD_TEST_PURCHASES, CARD_TEST_RULE = 5, "card_testing"


def card_test(user_id: str, start_ms: int) -> list[dict[str, Any]]:
    """Small purchases of a user who tests a stolen card: the last one makes the rule true.

    The user and the device should have no other events: then a replay raises the same flags.
    """
    device = {"device_id": f"device-{user_id}", "amount": 1.0}
    return [
        event_of(user_id, start_ms + number, f"{user_id}-{number}", "purchase", **device)
        for number in range(CARD_TEST_PURCHASES)
    ]


def to_message(event: dict[str, Any]) -> Message:
    return Message(event["user_id"].encode("utf-8"), json.dumps(event).encode("utf-8"))


def with_iso_times(messages: list[Message], every: int) -> list[Message]:
    """Rewrites event_time to ISO 8601 with an offset in every `every`-th message.

    Messages that are not events with a time in milliseconds stay as they are.
    """
    return [
        _with_iso_time(message, index) if index % every == 0 else message
        for index, message in enumerate(messages)
    ]


def _with_iso_time(message: Message, index: int) -> Message:
    try:
        event = json.loads(message.value or b"")
        time_ms = event["event_time"]
        seconds, ms = divmod(time_ms, 1_000)
    except (ValueError, KeyError, TypeError):
        return message
    zone_minutes = (-330, 0, 60, 345)[index % 4]
    local = EPOCH.fromtimestamp(seconds + zone_minutes * 60, EPOCH.tzinfo)
    sign, (hours, minutes) = "-" if zone_minutes < 0 else "+", divmod(abs(zone_minutes), 60)
    text = f"{local:%Y-%m-%dT%H:%M:%S}.{ms:03}{sign}{hours:02}:{minutes:02}"
    return Message(message.key, json.dumps(event | {"event_time": text}).encode("utf-8"))
