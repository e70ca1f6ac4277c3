"""Which events the job would reject, before they are sent.

The job validates in SQL (docs/data-contract.md, section 2). These are the same checks for events
that a mapping makes: flat objects in valid UTF-8.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import orjson

from liveprofile.ingest.translation import parse_time_ms
from liveprofile.settings import LimitSettings
from liveprofile.wire.tokens import TYPE_INDEX

FIRST_TIME_MS = 946_684_800_000  # 2000-01-01
MAX_NUMBER = 1e9
MAX_ID_CHARS = 256
CONTROL = re.compile(r"[\x00-\x1f]")
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
RANGES: dict[str, Callable[[float], bool]] = {
    "price": lambda value: value >= 0,
    "quantity": lambda value: value >= 0,
    "amount": lambda value: True,
    "rating": lambda value: True,
    "place.lat": lambda value: abs(value) <= 90,
    "place.lon": lambda value: abs(value) <= 180,
}


def rejection(payload: bytes, now_ms: int, limits: LimitSettings) -> tuple[str, str] | None:
    """Reason and detail of an event that arrives at `now_ms`; None if it is valid."""
    if len(payload.decode("utf-8", "replace")) > limits.payload_chars:
        return "TOO_LARGE", ""
    event = orjson.loads(payload)
    for name in ("event_id", "user_id", "event_type", "event_time"):
        if event.get(name) in (None, "") or isinstance(event[name], (dict, list)):
            return "MISSING_FIELD", name
    for name in ("event_id", "user_id"):
        text = str(event[name])
        if len(text) > MAX_ID_CHARS or CONTROL.search(text):
            return "BAD_ID", name
    if event["event_type"] not in TYPE_INDEX:
        return "UNKNOWN_TYPE", str(event["event_type"])
    time_ms = parse_time_ms(event["event_time"])
    if time_ms is None or time_ms < FIRST_TIME_MS:
        return "BAD_TIME", str(event["event_time"])
    if time_ms > now_ms + limits.max_clock_skew_ms:
        return "FUTURE_TIME", str(event["event_time"])
    wrong = _wrong_number(event)
    return ("BAD_NUMBER", wrong) if wrong else None


def _wrong_number(event: dict[str, Any]) -> str | None:
    numbers: dict[str, float] = {}
    place = event.get("place") or {}
    for name, in_range in RANGES.items():
        value = place.get(name[6:]) if name.startswith("place.") else event.get(name)
        if value is None:
            continue
        number = _number(value)
        if number is None or abs(number) > MAX_NUMBER or not in_range(number):
            return name
        numbers[name] = number
    if "amount" not in numbers and "price" in numbers:
        product = numbers["price"] * numbers.get("quantity", 1.0)
        return "amount" if product > MAX_NUMBER else None
    return None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str) and not NUMBER.fullmatch(value):
        return None
    number = float(value)
    return number if math.isfinite(number) else None
