"""From a record in any input format to a record of the input topic (docs/data-contract.md).

The formats are JSON, Confluent's with a schema id, and CloudEvents 1.0: structured JSON, or binary
with ce_ headers (Kafka binding 1.0.2).
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, NoReturn

import orjson

from liveprofile.kafka.records import Record
from liveprofile.wire.tokens import EVENT_TYPES

SPEC_VERSION = "1.0"
REQUIRED = ("specversion", "id", "source", "type")
STRUCTURED = "application/cloudevents"
PREFIX = "ce_"
MAGIC = 0
PREFIX_BYTES = 5  # the magic byte and the schema id, a 32-bit integer, big endian
MAX_KEY_BYTES = 1_024  # an id has at most 256 characters
_WHITE_SPACE = frozenset(b" \t\r\n")
_UTF8_BYTES = 4  # of a character, at most

BodyReader = Callable[[bytes], bytes]  # the JSON of an event; raises DecodeError
ReaderOf = Callable[[int], BodyReader]  # raises DecodeError, RegistryError
Reason = Literal["BAD_MAGIC", "BAD_BODY", "UNKNOWN_SCHEMA", "BAD_CLOUDEVENT", "TOO_LARGE"]
MAX_DETAIL_CHARS = 200


class DecodeError(ValueError):
    """A record that goes to the rejected topic: it would fail again at each attempt."""

    def __init__(self, reason: Reason, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail[:MAX_DETAIL_CHARS]


class DecodedEvent(NamedTuple):
    """What is sent to the input topic; a record without value is a tombstone."""

    key: bytes | None
    value: bytes | None


def decode(record: Record, reader_of: ReaderOf, max_chars: int) -> DecodedEvent:
    """The event of a record in Confluent wire format, a CloudEvent, or a JSON event.

    Whether it is valid is left to the job, which has one definition for all formats. A JSON event
    is unchanged. max_chars: of an event. Raises DecodeError, RegistryError.
    """
    value = record.value
    if value is None:
        return DecodedEvent(_short(record.key), None)
    # No format needs more bytes for a character of the event.
    if len(value) > _UTF8_BYTES * max_chars + PREFIX_BYTES:
        raise _too_large(max_chars)
    headers = {name.lower(): content for name, content in record.headers.items()}
    event = _event(value, headers, reader_of)
    if len(event) > max_chars and len(event.decode("utf-8", "replace")) > max_chars:
        raise _too_large(max_chars)
    return DecodedEvent(_user_key(event) or _short(record.key), event)


def _event(value: bytes, headers: Mapping[str, bytes], reader_of: ReaderOf) -> bytes:
    content_type = headers.get("content-type", b"").decode("latin-1").lower()
    if f"{PREFIX}specversion" in headers:  # a CloudEvent in binary mode
        body = _from_confluent(value, reader_of) if value[:1] == b"\0" else value
        attributes = {
            name.removeprefix(PREFIX): text.decode("utf-8", "replace")
            for name, text in headers.items()
            if name.startswith(PREFIX)
        }
        return _completed(_json(body), attributes)
    if content_type.startswith(STRUCTURED):
        kind = content_type.partition(";")[0].strip()
        if kind not in (f"{STRUCTURED}+json", STRUCTURED):
            raise DecodeError("BAD_CLOUDEVENT", f"content-type {kind} is not {STRUCTURED}+json")
        return _from_structured(_json(value))
    if value[:1] == b"\0":
        return _from_confluent(value, reader_of)
    if value and value[0] < 0x20 and value[0] not in _WHITE_SPACE:
        raise DecodeError("BAD_MAGIC", f"the first byte is {value[0]}, neither JSON nor {MAGIC}")
    if b'"specversion"' in value:
        try:
            parsed = _json(value)
        except DecodeError:
            return value  # the job says why
        # Every CloudEvent has these attributes, and no event has them.
        if isinstance(parsed, dict) and all(isinstance(parsed.get(n), str) for n in REQUIRED):
            return _from_structured(parsed)
    return value


def _from_confluent(value: bytes, reader_of: ReaderOf) -> bytes:
    if len(value) <= PREFIX_BYTES:
        raise DecodeError("BAD_BODY", f"{len(value)} bytes, of which {PREFIX_BYTES} are the prefix")
    schema_id = int.from_bytes(value[1:PREFIX_BYTES], "big", signed=True)
    return reader_of(schema_id)(value[PREFIX_BYTES:])


def _from_structured(envelope: Any) -> bytes:
    return _completed(_object(envelope).get("data"), envelope)


def _completed(data: Any, attributes: Mapping[str, Any]) -> bytes:
    """The event, with what it lacks from the attributes of its CloudEvent. Raises DecodeError.

    event_id is source and id, which together are unique; user_id is subject, event_time is time,
    event_type is the last part of type.
    """
    event = _object(data)
    for name in REQUIRED:
        if not isinstance(attributes.get(name), str) or not attributes[name]:
            raise DecodeError("BAD_CLOUDEVENT", f"attribute {name} is missing")
    if attributes["specversion"] != SPEC_VERSION:
        raise DecodeError("BAD_CLOUDEVENT", f"specversion {attributes['specversion']} is not 1.0")
    time = attributes.get("time")
    kind = attributes["type"].rpartition(".")[2]
    fields = {
        "event_id": f"{attributes['source']} {attributes['id']}",
        "user_id": attributes.get("subject"),
        "event_type": kind if kind in EVENT_TYPES else attributes["type"],
        # RFC 3339 allows small letters, ISO 8601 does not.
        "event_time": time.upper() if isinstance(time, str) else time,
    }
    fields |= {name: value for name, value in event.items() if value is not None}
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        return json.dumps(given, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate, which stays an escape
        return json.dumps(given, separators=(",", ":")).encode()


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DecodeError("BAD_CLOUDEVENT", "the event or its data is no JSON object")
    return value


def _json(text: bytes) -> Any:
    """Parses JSON strictly. Raises DecodeError."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise DecodeError("BAD_CLOUDEVENT", f"not JSON: {error}") from None


def _user_key(event: bytes) -> bytes | None:
    """user_id, which keeps the order of a user's events."""
    try:
        user = orjson.loads(event)["user_id"]
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        return None
    if isinstance(user, bool) or not isinstance(user, str | int) or user == "":
        return None
    return _short(str(user).encode("utf-8", "replace"))


def _short(key: bytes | None) -> bytes | None:
    return key if key is None or len(key) <= MAX_KEY_BYTES else None


def _too_large(max_chars: int) -> DecodeError:
    return DecodeError("TOO_LARGE", f"more than {max_chars} characters (limits.max_payload_chars)")
