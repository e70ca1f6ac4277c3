"""One behaviour event: parsed from its payload, and the slim token that stays of it in state.

The job's SQL has checked what it reads (jobs/sql/profile_views.py); what only the model and the profile read
is checked here. Rules: docs/data-contract.md.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

import orjson

# The position in this list is the model's type index and, as a letter, the type in a token.
EVENT_TYPES = (
    "view", "cart", "favorite", "purchase", "return", "review", "search",
    "share", "follow", "coupon", "campaign", "login",
)  # fmt: skip
TYPE_INDEX = {name: index for index, name in enumerate(EVENT_TYPES)}
TYPE_LETTERS = "abcdefghijkl"
HEADER = "#"  # in the place of the letter: no event, but what is known of a window of the history

# Control characters that JSON text can't hold unescaped, so they separate without escaping.
FIELD, EVENT, WINDOW = "\x1f", "\x1e", "\x1d"
TOKEN_CHARS_PER_WINDOW = 4_096
ID_CHARS = 256
_IDS = (
    "event_id", "user_id", "item_id", "category_id",
    "session_id", "device_id", "coupon_id", "channel",
)  # fmt: skip
_IDS_TO_TOKEN = str.maketrans({FIELD: "_", EVENT: "_", WINDOW: "_"})


class Token(NamedTuple):
    """What the model sees of an event."""

    time_ms: int
    type_index: int
    item: str  # "" if unknown
    category: str  # "" if unknown
    amount: float  # 0 if unknown


class BadEvent(ValueError):
    """An event the SQL let through and that can't be used. `reason`: see the data contract."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def digest(event_id: str) -> bytes:
    """The 8 bytes by which a delta proves that it used this event (BLAKE2b, RFC 7693)."""
    return hashlib.blake2b(event_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def as_id(value: Any) -> str:
    """An id as text; "" for what is no id."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        return ""
    return str(value)


def _token_id(value: Any) -> str:
    text = as_id(value)
    # No separator is printable, and asking takes a tenth of the time.
    return (text if text.isprintable() else text.translate(_IDS_TO_TOKEN))[:ID_CHARS]


def load(payload: str | bytes) -> dict[str, Any]:
    """Raises BadEvent for what Java's JSON parser accepted and is not one JSON object."""
    try:
        event = orjson.loads(payload)
        if float not in map(type, map(event.get, _IDS)):
            return event
    except (orjson.JSONDecodeError, AttributeError):
        pass
    # To orjson an integer beyond 64 bits is a float and 1e400 an error; both are JSON all the same.
    try:
        event = json.loads(payload)
    except ValueError as error:
        raise BadEvent("NOT_JSON", str(error)[:200]) from None
    except RecursionError:
        raise BadEvent("UNREADABLE", "nested too deep beside a number beyond 64 bits") from None
    if not isinstance(event, dict):
        raise BadEvent("NOT_JSON", f"a JSON {type(event).__name__}, not an object")
    return event


def number(event: dict[str, Any], field: str) -> float | None:
    """A checked number, given as a JSON number or as text; None if missing. Raises BadEvent."""
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
    """amount, else price x quantity, else 0."""
    if "amount" in event and (value := number(event, "amount")) is not None:
        return float(value)
    if "price" not in event or (price := number(event, "price")) is None:
        return 0.0
    quantity = number(event, "quantity") if "quantity" in event else None
    return float(price) if quantity is None else float(price) * float(quantity)


def token(event: dict[str, Any], time_ms: int) -> Token:
    """The same token that the SQL packs into the history (jobs/sql/profile_views.py)."""
    return Token(
        time_ms,
        TYPE_INDEX[event["event_type"]],
        _token_id(event.get("item_id")),
        _token_id(event.get("category_id")),
        amount(event),
    )
