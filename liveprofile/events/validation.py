"""Validates a record as the job does, for commands that read the input topic without Flink.

The rules are sections 1 and 2 of docs/data-contract.md. The job applies them in SQL
(jobs/sql/event_views.py).
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import orjson

from liveprofile.settings import LimitSettings
from liveprofile.wire.tokens import EVENT_TYPES, ID_CHARS, TYPE_INDEX
from liveprofile.wire.user_records import EARLIEST_MS
from liveprofile.wire.window_events import as_id, token

HEARTBEAT = "heartbeat"
NUMBER_LIMIT = 1e9
MAX_NESTING = 999
MAX_NUMBER_CHARS = 1_000
MAX_NAME_CHARS = 50_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_ZONE = timedelta(hours=18)
_IDS = ("event_id", "user_id", "item_id", "category_id", "anonymous_id")
_REQUIRED = ("event_id", "user_id", "event_type", "event_time")
# Unicode's control characters, and those that change the direction of the text after them.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_DIGITS = re.compile(r"[0-9]{1,15}")
_ISO_8601 = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?"
    r"(?:Z|([+-])([0-9]{2}):?([0-5][0-9]))?"
)
_LONG_NUMBER = re.compile(rb"[-+.0-9eE]{%d}" % (MAX_NUMBER_CHARS + 1))
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(r"[][{}]")


class EventType(NamedTuple):
    """A type that events may have.

    role: which of EVENT_TYPES it counts as. limits: the lowest and the highest number of each of
    its properties, None of a text.
    """

    role: str
    limits: Mapping[str, tuple[float, float] | None]


TYPES = {name: EventType(name, {}) for name in EVENT_TYPES}


class AcceptedEvent(NamedTuple):
    """A valid event that is no heartbeat."""

    event_id: str
    user_id: str
    event_type: str  # the role of its type
    time_ms: int
    item: str  # "" if unknown
    category: str  # "" if unknown
    amount: float  # 0 if unknown
    anonymous_id: str | None  # None if missing, "" if it is no id


class Heartbeat(NamedTuple):
    time_ms: int


class RejectedError(ValueError):
    """The job rejects the record. Arguments: the reason and a detail, which may be ""."""


def accept(
    value: bytes | None, timestamp_ms: int, limits: LimitSettings, types: Mapping[str, EventType]
) -> AcceptedEvent | Heartbeat | None:
    """Returns the event of a record's value; None if the job rejects the record.

    timestamp_ms: the timestamp of the Kafka record. types: by name.
    """
    try:
        return validate(value, timestamp_ms, limits, types)
    except RejectedError:
        return None


def validate(
    value: bytes | None, timestamp_ms: int, limits: LimitSettings, types: Mapping[str, EventType]
) -> AcceptedEvent | Heartbeat:
    """As `accept`, but raises RejectedError."""
    latest_ms = timestamp_ms + limits.max_clock_skew_ms
    event = _parse(value, limits.max_payload_chars)
    event_type = event.get("event_type")
    try:
        if event_type == HEARTBEAT:
            return Heartbeat(_time_ms(event, latest_ms))
        event_id, user_id = _id(event, "event_id"), _id(event, "user_id")
        if not isinstance(event_type, str) or event_type not in types:
            raise RejectedError("UNKNOWN_TYPE", str(event_type))
        time_ms = _time_ms(event, latest_ms)
        role, limits_of_properties = types[event_type]
        _check_numbers(event)
        if limits_of_properties:
            _check_properties(event.get("attributes"), limits_of_properties)
    except RejectedError:
        if missing := _missing_field(event):
            raise RejectedError("MISSING_FIELD", missing) from None
        raise
    _, _, item, category, amount = token(event, TYPE_INDEX[role], time_ms)
    anonymous_id = _optional_id(event.get("anonymous_id"))
    return AcceptedEvent(event_id, user_id, role, time_ms, item, category, amount, anonymous_id)


def _missing_field(event: dict[str, Any]) -> str | None:
    """The first required field without a value; an id that is neither text nor integer is none."""
    needed = ("event_type", "event_time")
    for field in needed if event.get("event_type") == HEARTBEAT else _REQUIRED:
        value = event.get(field)
        if value in (None, "") or isinstance(value, dict | list):
            return field
        if field not in needed and not as_id(value):
            return field
    return None


def _parse(value: bytes | None, payload_chars: int) -> dict[str, Any]:
    if value is None:
        raise RejectedError("NOT_JSON", "")
    # A character has at most four bytes.
    if len(value) > payload_chars and (
        len(value) > 4 * payload_chars or len(value.decode(errors="replace")) > payload_chars
    ):
        raise RejectedError("TOO_LARGE", "")
    try:
        if len(value) <= MAX_NUMBER_CHARS or not _needs_strict_parser(value):
            event = orjson.loads(value)
            if not isinstance(event, dict):
                raise RejectedError("NOT_JSON", "")
            if float not in map(type, map(event.get, _IDS)):
                return event
    except orjson.JSONDecodeError:
        pass  # orjson also refuses 1e400, which is valid JSON
    return _parse_strictly(value)


def _needs_strict_parser(value: bytes) -> bool:
    """Whether limits may be exceeded that orjson does not have."""
    brackets = value.count(b"[") + value.count(b"{")
    is_deep = brackets > MAX_NESTING and _nesting(value.decode(errors="replace")) > MAX_NESTING
    if is_deep:
        raise RejectedError("NOT_JSON", "")
    return len(value) > MAX_NAME_CHARS or _LONG_NUMBER.search(value) is not None


def _parse_strictly(value: bytes) -> dict[str, Any]:
    """Parses numbers of any size, within the limits of the contract."""
    try:
        event = _DECODER.decode(value.decode())
        json.dumps(event, ensure_ascii=False).encode()
    except UnicodeError:  # a lone surrogate is refused by the second line
        raise RejectedError("BAD_ENCODING", "") from None
    except (ValueError, RecursionError):
        raise RejectedError("NOT_JSON", "") from None
    if not isinstance(event, dict):
        raise RejectedError("NOT_JSON", "")
    return event


def _nesting(text: str) -> int:
    """The largest number of brackets that are open at once, outside of texts."""
    brackets = _TEXT.sub("", text)
    steps = (1 if each in "[{" else -1 for each in _BRACKET.findall(brackets))
    return max(itertools.accumulate(steps), default=0)


def _within_limit(parse: Callable[[str], float]) -> Callable[[str], float]:
    def parse_number(text: str) -> float:
        if len(text) > MAX_NUMBER_CHARS:
            raise ValueError(f"a number of {len(text)} characters")
        return parse(text)

    return parse_number


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if max(map(len, fields), default=0) > MAX_NAME_CHARS:
        raise ValueError("a name is too long")
    return fields


_DECODER = json.JSONDecoder(
    object_pairs_hook=_fields,
    parse_constant=_refuse,
    parse_float=_within_limit(float),
    parse_int=_within_limit(int),
)


def _id(event: dict[str, Any], field: str) -> str:
    text = as_id(event.get(field))
    if not _is_id(text):
        raise RejectedError("BAD_ID", field)
    return text


def _optional_id(value: Any) -> str | None:
    """None if it is missing, "" if it is no id."""
    if value is None:
        return None
    text = as_id(value)
    return text if _is_id(text) else ""


def _is_id(text: str) -> bool:
    # isprintable is much faster than the search, and no control character is printable.
    is_bad = not text.isprintable() and _CONTROL.search(text)
    return 0 < len(text) <= ID_CHARS and not is_bad


def event_time_ms(value: Any) -> int | None:
    """An event_time in epoch milliseconds; None if it is invalid."""
    if type(value) is not int:
        text = as_id(value)
        value = int(text) if _DIGITS.fullmatch(text) else _iso_ms(text)
    return value if value is not None and EARLIEST_MS <= value < 10**15 else None


def _time_ms(event: dict[str, Any], latest_ms: int) -> int:
    time_ms = event_time_ms(event.get("event_time"))
    if time_ms is None or time_ms > latest_ms:
        reason = "BAD_TIME" if time_ms is None else "FUTURE_TIME"
        raise RejectedError(reason, str(event.get("event_time")))
    return time_ms


def _iso_ms(text: str) -> int | None:
    """Epoch milliseconds of ISO 8601; the rest of the second's fraction is cut off."""
    match = _ISO_8601.fullmatch(text)
    if not match:
        return None
    *date_and_time, fraction, sign, zone_hours, zone_minutes = match.groups()
    zone = timedelta(hours=int(zone_hours or 0), minutes=int(zone_minutes or 0))
    try:
        local = datetime(*(int(part or 0) for part in date_and_time), tzinfo=UTC)
    except ValueError:
        return None
    if zone > _MAX_ZONE:
        return None
    seconds = (local - _EPOCH + (zone if sign == "-" else -zone)) // timedelta(seconds=1)
    return seconds * 1_000 + int((fraction or "")[:3].ljust(3, "0"))


def _check_numbers(event: dict[str, Any]) -> None:
    price = _number(event, "price", 0.0, NUMBER_LIMIT)
    quantity = _number(event, "quantity", 0.0, NUMBER_LIMIT)
    amount = _number(event, "amount", -NUMBER_LIMIT, NUMBER_LIMIT)
    if amount is None and price is not None and price * (quantity or 0.0) > NUMBER_LIMIT:
        raise RejectedError("BAD_NUMBER", "amount")
    _number(event, "rating", -NUMBER_LIMIT, NUMBER_LIMIT)
    place = event.get("place")
    if isinstance(place, dict):
        _number(place, "lat", -90.0, 90.0, "place.")
        _number(place, "lon", -180.0, 180.0, "place.")


def _check_properties(attributes: Any, limits: Mapping[str, tuple[float, float] | None]) -> None:
    for name in sorted(limits) if isinstance(attributes, dict) else ():
        if own := limits[name]:
            _number(attributes, name, *own, "attributes.")


def _number(
    event: dict[str, Any], field: str, low: float, high: float, prefix: str = ""
) -> float | None:
    value = event.get(field)
    if value is None:
        return None
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # Compared before it is converted: an integer may be too large for a double.
    if not is_number or not low <= value <= high:
        raise RejectedError("BAD_NUMBER", prefix + field)
    return float(value)
