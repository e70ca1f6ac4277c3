"""Sections 1 and 2 of docs/data-contract.md in plain Python: parses and validates one record.

Uses the standard library only.
"""

import json
import re
import sys
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

TYPES = (
    *("view", "cart", "favorite", "purchase", "return", "review", "search", "share", "follow"),
    *("coupon", "campaign", "login"),
)
HEARTBEAT = "heartbeat"
REASONS = (
    *("TOO_LARGE", "BAD_ENCODING", "NOT_JSON", "MISSING_FIELD", "BAD_ID", "UNKNOWN_TYPE"),
    *("BAD_TIME", "FUTURE_TIME", "BAD_NUMBER"),
)
# The contract defines `detail` for these.
REASONS_WITH_DETAIL = ("MISSING_FIELD", "BAD_NUMBER", "TOO_MANY")

MAX_ID_CHARS = 256
MAX_NUMBER = 1e9
MAX_VECTOR_LENGTH = 1_024
MIN_TIME_MS = 946_684_800_000  # 2000-01-01
NO_OWN_TYPES = MappingProxyType({})
# Limits of the JSON parser, which RFC 8259, section 9, allows.
MAX_NESTING = 999
MAX_NUMBER_CHARS = 1_000
MAX_NAME_CHARS = 50_000

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DIGITS = re.compile(r"[0-9]{1,15}")
_ISO_8601 = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?"
    r"(?:Z|([+-])([0-9]{2}):?([0-9]{2}))?"
)
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_ENCODER = re.compile(r"[a-z0-9._-]{1,64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SEPARATORS = re.compile(r"[\x1d\x1e\x1f]")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


class Limits(Protocol):
    max_payload_chars: int
    max_clock_skew_ms: int


class ValidEvent(NamedTuple):
    """An event that passed every check. A missing string, or one of a wrong type, is ""."""

    event_id: str
    user_id: str
    event_type: str
    time_ms: int
    item: str
    category: str
    amount: float  # 0 if unknown
    session: str
    device: str
    coupon: str
    place: tuple[float, float] | None
    media: tuple[str, list[float]] | None  # the encoder and its vector
    anonymous_id: str

    properties: dict[str, float | str]  # without missing ones


# By name: the role, and the properties with the lowest and the highest number, None of a text.
OwnTypes = Mapping[str, tuple[str, Mapping[str, tuple[float, float] | None]]]


class Heartbeat(NamedTuple):
    time_ms: int


class Rejected(NamedTuple):
    reason: str
    detail: str  # "" for other reasons than REASONS_WITH_DETAIL


class _InvalidEventError(Exception):
    """A check failed. Arguments: reason, detail."""


def validate(
    value: bytes | None,
    record_timestamp_ms: int,
    limits: Limits,
    own_types: OwnTypes = NO_OWN_TYPES,
) -> ValidEvent | Heartbeat | Rejected:
    """Applies the checks in order; the first that fails is the reason. Raises nothing."""
    types = {name: (name, {}) for name in TYPES} | dict(own_types)
    try:
        event = _parse(value, limits.max_payload_chars)
        heartbeat = event.get("event_type") == HEARTBEAT
        _check_presence(event, heartbeat)
        if heartbeat:
            return Heartbeat(_time_ms(event, record_timestamp_ms + limits.max_clock_skew_ms))
        event_id, user_id = _checked_id(event, "event_id"), _checked_id(event, "user_id")
        if event["event_type"] not in types:
            raise _InvalidEventError("UNKNOWN_TYPE", "")
        role, declared = types[event["event_type"]]
        time_ms = _time_ms(event, record_timestamp_ms + limits.max_clock_skew_ms)
        numbers = _checked_numbers(event)
        properties = _checked_properties(event.get("attributes"), declared)
    except _InvalidEventError as error:
        return Rejected(*error.args)
    return ValidEvent(
        event_id,
        user_id,
        role,
        time_ms,
        _SEPARATORS.sub("_", as_text(event.get("item_id")))[:MAX_ID_CHARS],
        _SEPARATORS.sub("_", as_text(event.get("category_id")))[:MAX_ID_CHARS],
        _amount(numbers),
        as_text(event.get("session_id")),
        as_text(event.get("device_id")),
        as_text(event.get("coupon_id")),
        _place(numbers),
        _media(event.get("media_embedding")),
        _optional_id(event.get("anonymous_id")),
        properties,
    )


def read_own_types(path: Path) -> OwnTypes:
    """The event types of a file; a relative path is one in the repository."""
    path = Path(__file__).parents[2] / path
    return {
        table["id"]: (
            table["role"],
            {
                name: (each.get("min", -MAX_NUMBER), each.get("max", MAX_NUMBER))
                if each["type"] == "number"
                else None
                for name, each in table.get("properties", {}).items()
            },
        )
        for table in tomllib.loads(path.read_text("utf-8"))["event_types"]
    }


def event_clock_ms(value: bytes | None, record_timestamp_ms: int, limits: Limits) -> int | None:
    """Returns the event_time by which a rejected record advances the watermark, or None."""
    try:
        event, _ = _loads((value or b"").decode("utf-8", "replace"))
        return _time_ms(event, record_timestamp_ms + limits.max_clock_skew_ms)
    except (ValueError, _InvalidEventError):
        return None


def as_text(value: Any) -> str:
    """Returns a string or an integer as text, and "" for anything else."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


# --- the payload ------------------------------------------------------------------------------


def _parse(value: bytes | None, payload_chars: int) -> dict[str, Any]:
    if value is None:
        raise _InvalidEventError("NOT_JSON", "")
    if len(value.decode("utf-8", "replace")) > payload_chars:
        raise _InvalidEventError("TOO_LARGE", "")
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        raise _InvalidEventError("BAD_ENCODING", "") from None
    if _has_lone_surrogate(text):
        raise _InvalidEventError("BAD_ENCODING", "")
    try:
        event, has_trailing_text = _loads(text)
    except ValueError:
        raise _InvalidEventError("NOT_JSON", "") from None
    if has_trailing_text:
        raise _InvalidEventError("NOT_JSON", "")
    return event


def _has_lone_surrogate(text: str) -> bool:
    """Reads escapes from the left: `\\\\ud800` escapes the backslash."""
    if "\\u" not in text:
        return False
    high_end = None
    for escape in _ESCAPE.finditer(text):
        code = int(escape[1], 16) if escape[1] else 0
        if 0xDC00 <= code <= 0xDFFF:
            if high_end != escape.start():
                return True
            high_end = None
            continue
        if high_end is not None:
            return True
        if 0xD800 <= code <= 0xDBFF:
            high_end = escape.end()
    return high_end is not None


def _short(number: str) -> str:
    if len(number) > MAX_NUMBER_CHARS:
        raise ValueError("number too long")
    return number


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _object_with_short_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if any(len(name) > MAX_NAME_CHARS for name, _ in pairs):
        raise ValueError("name too long")
    return dict(pairs)


_JSON_SPACE = " \t\n\r"
# Strict RFC 8259. If a name occurs twice, the last value counts.
_STRICT = {
    "parse_int": lambda text: int(_short(text)),
    "parse_float": lambda text: float(_short(text)),
    "parse_constant": _reject_constant,
}
_DECODER = json.JSONDecoder(**_STRICT)
_LIMITING_DECODER = json.JSONDecoder(**_STRICT, object_pairs_hook=_object_with_short_names)


def _loads(text: str) -> tuple[dict[str, Any], bool]:
    """Returns the object, and whether text follows it. Raises ValueError if there is no object."""
    text = text.strip(_JSON_SPACE)
    if not text.startswith("{"):
        raise ValueError("not a JSON object")
    event, end = _raw_decode(text)
    return event, end < len(text)


def _raw_decode(text: str) -> tuple[dict[str, Any], int]:
    if len(text) <= MAX_NAME_CHARS and text.count("[") + text.count("{") < 200:
        return _DECODER.raw_decode(text)
    if _nesting(text) > MAX_NESTING:
        raise ValueError("nested too deeply")
    # Python's parser recurses: the limit must allow the contract's nesting.
    default_limit = sys.getrecursionlimit()
    sys.setrecursionlimit(default_limit + 4 * MAX_NESTING)
    try:
        return _LIMITING_DECODER.raw_decode(text)
    finally:
        sys.setrecursionlimit(default_limit)


def _nesting(text: str) -> int:
    depth = deepest = 0
    for part in _STRING_OR_BRACKET.finditer(text):
        if part[0] in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif part[0] in "]}":
            depth -= 1
    return deepest


# --- the fields -------------------------------------------------------------------------------


def _check_presence(event: dict[str, Any], heartbeat: bool) -> None:
    for field in ("event_id", "user_id", "event_type", "event_time"):
        is_id = field in ("event_id", "user_id")
        if heartbeat and is_id:
            continue
        value = event.get(field)
        if value is None or value == "" or isinstance(value, (dict, list)):
            raise _InvalidEventError("MISSING_FIELD", field)
        # An id that is neither string nor integer is missing.
        if is_id and as_text(value) == "":
            raise _InvalidEventError("MISSING_FIELD", field)


def _checked_id(event: dict[str, Any], field: str) -> str:
    text = as_text(event.get(field))
    if len(text) > MAX_ID_CHARS or _CONTROL.search(text):
        raise _InvalidEventError("BAD_ID", "")
    return text


def _optional_id(value: Any) -> str:
    """Returns "" for a value that is no id: it never causes a rejection."""
    text = as_text(value)
    return "" if len(text) > MAX_ID_CHARS or _CONTROL.search(text) else text


def _time_ms(event: dict[str, Any], latest_ms: int) -> int:
    text = as_text(event.get("event_time"))
    time_ms = int(text) if _DIGITS.fullmatch(text) else _iso_8601_ms(text)
    if time_ms < MIN_TIME_MS:
        raise _InvalidEventError("BAD_TIME", "")
    if time_ms > latest_ms:
        raise _InvalidEventError("FUTURE_TIME", "")
    return time_ms


def _iso_8601_ms(text: str) -> int:
    """Truncates the fraction of a second to milliseconds."""
    match = _ISO_8601.fullmatch(text)
    if not match:
        raise _InvalidEventError("BAD_TIME", "")
    *date_and_time, fraction, sign, zone_hours, zone_minutes = match.groups()
    zone = timedelta(hours=int(zone_hours or 0), minutes=int(zone_minutes or 0))
    if zone > timedelta(hours=18) or int(zone_minutes or 0) > 59:
        raise _InvalidEventError("BAD_TIME", "")
    try:
        local = datetime(*(int(part or 0) for part in date_and_time), tzinfo=UTC)
    except ValueError:
        raise _InvalidEventError("BAD_TIME", "") from None
    seconds = (local - EPOCH) // timedelta(seconds=1)
    seconds -= (-1 if sign == "-" else 1) * (zone // timedelta(seconds=1))
    return seconds * 1_000 + int((fraction or "")[:3].ljust(3, "0"))


def _checked_numbers(event: dict[str, Any]) -> dict[str, float | None]:
    place = event.get("place")
    place = place if isinstance(place, dict) else {}
    checked: dict[str, float | None] = {}
    for field, value, low, high in (
        ("price", event.get("price"), 0.0, MAX_NUMBER),
        ("quantity", event.get("quantity"), 0.0, MAX_NUMBER),
        ("amount", event.get("amount"), -MAX_NUMBER, MAX_NUMBER),
        ("rating", event.get("rating"), -MAX_NUMBER, MAX_NUMBER),
        ("place.lat", place.get("lat"), -90.0, 90.0),
        ("place.lon", place.get("lon"), -180.0, 180.0),
    ):
        checked[field] = None
        if value is None:
            if field == "amount" and (_product(checked) or 0.0) > MAX_NUMBER:
                raise _InvalidEventError("BAD_NUMBER", field)
            continue
        checked[field] = _checked_number(field, value, low, high)
    return checked


def _checked_number(field: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    # Compare first: an integer may be too large for a double.
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise _InvalidEventError("BAD_NUMBER", field)
    return float(value)


def _checked_properties(
    attributes: Any, declared: Mapping[str, tuple[float, float] | None]
) -> dict[str, float | str]:
    found: dict[str, float | str] = {}
    for name, limits in sorted(declared.items()):
        value = attributes.get(name) if isinstance(attributes, dict) else None
        if limits is None:
            found[name] = _SEPARATORS.sub("_", as_text(value))[:MAX_ID_CHARS]
        elif value is not None:
            found[name] = _checked_number(f"attributes.{name}", value, *limits)
    return {name: value for name, value in found.items() if value != ""}


def _amount(numbers: dict[str, float | None]) -> float:
    if numbers["amount"] is not None:
        return numbers["amount"]
    return _product(numbers) or 0.0


def _product(numbers: dict[str, float | None]) -> float | None:
    """Returns price x quantity, which stands for a missing amount."""
    if numbers["price"] is None:
        return None
    return numbers["price"] * (1.0 if numbers["quantity"] is None else numbers["quantity"])


def _place(numbers: dict[str, float | None]) -> tuple[float, float] | None:
    lat, lon = numbers["place.lat"], numbers["place.lon"]
    return None if lat is None or lon is None else (lat, lon)


def _media(value: Any) -> tuple[str, list[float]] | None:
    """Returns None for a missing or malformed embedding."""
    if not isinstance(value, dict):
        return None
    encoder, vector = value.get("encoder"), value.get("vector")
    if not isinstance(encoder, str) or not _ENCODER.fullmatch(encoder):
        return None
    if not isinstance(vector, list) or not 1 <= len(vector) <= MAX_VECTOR_LENGTH:
        return None
    for number in vector:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            return None
        if not -MAX_NUMBER <= number <= MAX_NUMBER:
            return None
    numbers = [float(number) for number in vector]
    return (encoder, numbers) if sum(number**2 for number in numbers) > 0 else None
