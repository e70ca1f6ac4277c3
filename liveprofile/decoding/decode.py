"""From a record in any input format to a record of the input topic (docs/data-contract.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import orjson

from liveprofile.decoding.cloud_event import (
    STRUCTURED,
    completed,
    header_attributes,
    is_binary,
    is_structured,
    read_json,
    structured_data,
    write_json,
)
from liveprofile.decoding.registry import BodyReader
from liveprofile.decoding.undecodable import Undecodable
from liveprofile.kafka.records import Record

MAGIC = 0
# The magic byte and the schema id, a 32-bit integer, big endian.
PREFIX_BYTES = 5
# Of a key. An id has at most 256 characters.
MAX_KEY_BYTES = 1_024
_WHITE_SPACE = frozenset(b" \t\r\n")
_UTF8_BYTES = 4  # of a character, at most

ReaderOf = Callable[[int], BodyReader]  # raises Undecodable, RegistryUnavailable


class DecodedEvent(NamedTuple):
    """What is sent to the input topic; a record without value is a tombstone."""

    key: bytes | None
    value: bytes | None


def decode(record: Record, reader_of: ReaderOf, max_chars: int) -> DecodedEvent:
    """The event of a record in Confluent wire format, a CloudEvent, or a JSON event.

    Whether it is valid is left to the job, which has one definition for all formats. A JSON event
    is unchanged. max_chars: of an event. Raises Undecodable, RegistryUnavailable.
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
    if is_binary(headers):
        return _from_binary(value, headers, reader_of)
    if content_type.startswith(STRUCTURED):
        return _from_structured(value, content_type)
    if value[:1] == b"\0":
        return _from_confluent(value, reader_of)
    if value and value[0] < 0x20 and value[0] not in _WHITE_SPACE:
        raise Undecodable("BAD_MAGIC", f"the first byte is {value[0]}, neither JSON nor {MAGIC}")
    if b'"specversion"' in value:
        try:
            parsed = read_json(value)
        except (ValueError, RecursionError):
            return value  # the job says why
        if is_structured(parsed):
            return write_json(completed(structured_data(parsed), parsed))
    return value


def _from_confluent(value: bytes, reader_of: ReaderOf) -> bytes:
    if len(value) <= PREFIX_BYTES:
        raise Undecodable("BAD_BODY", f"{len(value)} bytes, of which {PREFIX_BYTES} are the prefix")
    schema_id = int.from_bytes(value[1:PREFIX_BYTES], "big", signed=True)
    return reader_of(schema_id)(value[PREFIX_BYTES:])


def _from_structured(value: bytes, content_type: str) -> bytes:
    kind = content_type.partition(";")[0].strip()
    if kind not in (f"{STRUCTURED}+json", STRUCTURED):
        raise Undecodable("BAD_CLOUDEVENT", f"content-type {kind} is not {STRUCTURED}+json")
    envelope = _json_object(value, "the value")
    return write_json(completed(structured_data(envelope), envelope))


def _from_binary(value: bytes, headers: Mapping[str, bytes], reader_of: ReaderOf) -> bytes:
    body = _from_confluent(value, reader_of) if value[:1] == b"\0" else value
    return write_json(completed(_json_object(body, "data"), header_attributes(headers)))


def _json_object(text: bytes, what: str) -> dict[str, Any]:
    try:
        parsed = read_json(text)
    except (ValueError, RecursionError) as error:
        raise Undecodable("BAD_CLOUDEVENT", f"{what} is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise Undecodable("BAD_CLOUDEVENT", f"{what} is no JSON object")
    return parsed


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


def _too_large(max_chars: int) -> Undecodable:
    return Undecodable("TOO_LARGE", f"more than {max_chars} characters (limits.payload_chars)")
