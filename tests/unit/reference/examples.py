"""Records, settings and helpers of the tests of tests/reference."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from tests.reference.profile import Result
from tests.reference.units import DAY_MS
from tests.reference.validation import Heartbeat, Rejected, ValidEvent, validate
from tests.reference.windows import Record
from tests.support.streams.strategies import RECORD_MS, START_MS

LIMITS = SimpleNamespace(
    payload_chars=65_536,
    max_clock_skew_ms=600_000,
    window_events=10_000,
    window_chars=2_000_000,
)
WINDOW_MS = 300_000
SETTINGS = SimpleNamespace(
    limits=LIMITS,
    window=SimpleNamespace(
        length_ms=WINDOW_MS, out_of_orderness_ms=30_000, stagger_ms=0, history=8
    ),
    state=SimpleNamespace(decay_days=30.0),
)
DAILY = SimpleNamespace(
    limits=LIMITS,
    window=SimpleNamespace(length_ms=DAY_MS, out_of_orderness_ms=30_000, stagger_ms=0, history=2),
    state=SimpleNamespace(decay_days=30.0),
)
MIDNIGHT_MS = 1_700_006_400_000  # Wednesday 2023-11-15 00:00 UTC


def event(**fields: Any) -> dict[str, Any]:
    return {"event_id": "e", "user_id": "u", "event_type": "view", "event_time": START_MS} | fields


def validated(**fields: Any) -> ValidEvent | Heartbeat | Rejected:
    """Validates `event(**fields)` with the reference."""
    return validate(json.dumps(event(**fields)).encode(), RECORD_MS, LIMITS)


def records(*events: dict[str, Any], partition: int = 0) -> list[Record]:
    return [
        Record(partition, offset, RECORD_MS, None, json.dumps(fields).encode())
        for offset, fields in enumerate(events)
    ]


def days(*events_by_day: list[dict[str, Any]]) -> list[Record]:
    """Returns one user's events by day, at `ms` after midnight if given, else at midnight."""
    events = []
    for day, events_of_day in enumerate(events_by_day):
        for number, fields in enumerate(events_of_day):
            time_ms = MIDNIGHT_MS + day * DAY_MS + fields.get("ms", 0)
            events.append(event(event_id=f"{day}-{number}", event_time=time_ms) | fields)
    return records(*events)


def buy(amount: float = 1.0, **fields: Any) -> dict[str, Any]:
    return {"event_type": "purchase", "amount": amount} | fields


def profiles(found: Result) -> list[Any]:
    return [found.profiles[key] for key in sorted(found.profiles, key=lambda key: key[1])]
