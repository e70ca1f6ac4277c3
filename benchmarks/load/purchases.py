"""Generates purchases for the scoring pipeline."""

from __future__ import annotations

import json

from benchmarks.load.events import EventMessage


def purchase(
    event_id: str,
    user: str,
    time_ms: int,
    amount: float,
    item: int,
    shop: str,
    place: int,
    buyer: str | None = None,
) -> EventMessage:
    """A purchase. place: a number of a grid cell.

    buyer: the person, who has one device and one address. Default: the user.
    """
    buyer = buyer or user
    event = {
        "event_id": event_id,
        "user_id": user,
        "event_type": "purchase",
        "event_time": time_ms,
        "item_id": f"i{item:06d}",
        "amount": amount,
        "device_id": f"{buyer}-device",
        "place": {"lat": 45 + place / 100, "lon": -73.5},
        "attributes": {"shop_id": shop, "address_id": f"{buyer}-home"},
    }
    return EventMessage(user.encode(), json.dumps(event).encode())
