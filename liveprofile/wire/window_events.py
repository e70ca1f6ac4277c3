"""The events of one window as one text, and what Python reads of each.

`update_profile` receives the text in its column `events`. Each event is its time in ms, the letter
of its type (tokens.py), its partition and offset in the input topic, and its JSON payload.
Flink SQL has validated the fields that it reads (jobs/sql/event_views.py). This module validates
the fields that only Python reads. The rules are in docs/data-contract.md.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple

import orjson

from liveprofile.wire.output_records import Refused
from liveprofile.wire.tokens import EVENT, FIELD, ID_CHARS, TYPE_LETTERS, WINDOW, Token, join_sql

DIGEST_BYTES = 8
_IDS = (
    "event_id", "user_id", "item_id", "category_id",
    "session_id", "device_id", "coupon_id", "channel",
)  # fmt: skip
_IDS_OF_WINDOW = ("session_id", "device_id", "coupon_id", "channel")
_IDS_TO_TOKEN = str.maketrans({FIELD: "_", EVENT: "_", WINDOW: "_"})


class WindowEvent(NamedTuple):
    time_ms: int
    letter: str
    partition: str
    offset: str
    payload: str


def event_sql(time_ms: str, letter: str, partition: str, offset: str, payload: str) -> str:
    """SQL: one event. All arguments are text columns."""
    return join_sql(time_ms, letter, partition, offset, payload)


def events_sql(event: str) -> str:
    """SQL aggregate: the events of a window, in any order.

    ARRAY_AGG, because LISTAGG copies the whole text for each further event.
    """
    return f"ARRAY_JOIN(ARRAY_AGG({event}), '{EVENT}')"


def join(events: Iterable[WindowEvent]) -> str:
    """The text of events, as the SQL writes it; "" for none."""
    return EVENT.join(FIELD.join((str(time_ms), *others)) for time_ms, *others in events)


def parse(text: str) -> Iterator[WindowEvent]:
    """Yields the events of a window in the order of the text."""
    for event in text.split(EVENT):
        time_ms, *others = event.split(FIELD, 4)
        yield WindowEvent(int(time_ms), *others)


class ParsedEvent(NamedTuple):
    """One event. No two events of a user share time and id."""

    time_ms: int
    event_id: str
    token: Token
    payload: dict[str, Any]  # with its ids as text, and its place as a pair


def read_events(text: str) -> tuple[list[ParsedEvent], list[Refused]]:
    """The usable events of a window in order of time and event_id, and the others."""
    parsed: list[ParsedEvent] = []
    rejected: list[Refused] = []
    for time_ms, letter, partition, offset, payload in parse(text):
        try:
            event = load(payload)
            if "place" in event:
                event["place"] = _place(event["place"])
            for name in _IDS_OF_WINDOW:
                if name in event:
                    event[name] = as_id(event[name])
            of_event = token(event, TYPE_LETTERS.index(letter), time_ms)
            parsed.append(ParsedEvent(time_ms, as_id(event["event_id"]), of_event, event))
        except InvalidEventError as error:
            rejected.append(Refused(error.reason, error.detail, partition, offset, payload))
        except (KeyError, TypeError, ValueError) as error:
            # Java's JSON parser accepts a few payloads that Python's reads differently.
            detail = f"{type(error).__name__}: {error}"[:200]
            rejected.append(Refused("UNREADABLE", detail, partition, offset, payload))
    parsed.sort(key=itemgetter(0, 1))
    return parsed, rejected


def _place(place: Any) -> tuple[float, float] | None:
    if not isinstance(place, dict):
        return None
    lat, lon = number(place, "lat"), number(place, "lon")
    return None if lat is None or lon is None else (float(lat), float(lon))


def token(event: dict[str, Any], type_index: int, time_ms: int) -> Token:
    """Returns the token that `token_sql` writes for the same event."""
    return Token(
        time_ms,
        type_index,
        _token_id(event.get("item_id")),
        _token_id(event.get("category_id")),
        amount(event),
    )


def _token_id(value: Any) -> str:
    text = as_id(value)
    # No separator is printable, and isprintable costs a tenth of translate.
    return (text if text.isprintable() else text.translate(_IDS_TO_TOKEN))[:ID_CHARS]


class InvalidEventError(ValueError):
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

    Raises InvalidEventError if it is not one JSON object. Java's parser accepts a few more texts.
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
        raise InvalidEventError("NOT_JSON", str(error)[:200]) from None
    except RecursionError:
        raise InvalidEventError(
            "UNREADABLE", "nested too deep, with a number beyond 64 bits"
        ) from None
    if not isinstance(event, dict):
        raise InvalidEventError("NOT_JSON", f"a JSON {type(event).__name__}, not an object")
    return event


def number(event: dict[str, Any], field: str) -> float | None:
    """Returns a number given as JSON number or text, None if missing. Raises InvalidEventError."""
    value = event.get(field)
    if value is None or type(value) is float or type(value) is int:
        return value
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    raise InvalidEventError("BAD_NUMBER", field)


def amount(event: dict[str, Any]) -> float:
    """Returns `amount`, else price x quantity, else 0."""
    if "amount" in event and (value := number(event, "amount")) is not None:
        return float(value)
    if "price" not in event or (price := number(event, "price")) is None:
        return 0.0
    quantity = number(event, "quantity") if "quantity" in event else None
    return float(price) if quantity is None else float(price) * float(quantity)
