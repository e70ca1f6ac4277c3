"""Reads the JSON payload of a behaviour event in Python.

Flink SQL has validated the fields that it reads (jobs/sql/event_views.py). This module validates
the fields that only Python reads. The rules are in docs/data-contract.md.
"""

import hashlib
import json
from typing import Any

import orjson

DIGEST_BYTES = 8
_IDS = (
    "event_id", "user_id", "item_id", "category_id",
    "session_id", "device_id", "coupon_id", "channel",
)  # fmt: skip


class BadEvent(ValueError):
    """An event that the SQL accepted and Python rejects.

    `reason` is a code of docs/data-contract.md, `detail` names the field or the fault.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def digest(event_id: str) -> bytes:
    """Returns DIGEST_BYTES that identify an event in the delta that used it (BLAKE2b, RFC 7693)."""
    return hashlib.blake2b(
        event_id.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES
    ).digest()


def split_digests(digests: bytes) -> set[bytes]:
    """The digests of a delta's events."""
    return {digests[first : first + DIGEST_BYTES] for first in range(0, len(digests), DIGEST_BYTES)}


def as_id(value: Any) -> str:
    """Returns an id as text, or "" for a value that is no id."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        return ""
    return str(value)


def load(payload: str | bytes) -> dict[str, Any]:
    """Parses a payload.

    Raises BadEvent if it is not one JSON object. Java's JSON parser accepts a few more texts.
    """
    try:
        event = orjson.loads(payload)
        if float not in map(type, map(event.get, _IDS)):
            return event
    except (orjson.JSONDecodeError, AttributeError):
        pass
    # orjson reads an integer beyond 64 bits as a float and fails on 1e400; both are valid JSON.
    try:
        event = json.loads(payload)
    except ValueError as error:
        raise BadEvent("NOT_JSON", str(error)[:200]) from None
    except RecursionError:
        raise BadEvent("UNREADABLE", "nested too deep, with a number beyond 64 bits") from None
    if not isinstance(event, dict):
        raise BadEvent("NOT_JSON", f"a JSON {type(event).__name__}, not an object")
    return event


def number(event: dict[str, Any], field: str) -> float | None:
    """Returns a number given as JSON number or text, None if missing. Raises BadEvent."""
    value = event.get(field)
    if value is None or type(value) is float or type(value) is int:
        return value
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    raise BadEvent("BAD_NUMBER", field)


def amount(event: dict[str, Any]) -> float:
    """Returns `amount`, else price x quantity, else 0."""
    if "amount" in event and (value := number(event, "amount")) is not None:
        return float(value)
    if "price" not in event or (price := number(event, "price")) is None:
        return 0.0
    quantity = number(event, "quantity") if "quantity" in event else None
    return float(price) if quantity is None else float(price) * float(quantity)
