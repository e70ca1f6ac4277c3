"""CloudEvents 1.0 as input: structured JSON, and binary with ce_ headers (Kafka binding 1.0.2)."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, NoReturn

from liveprofile.decoding.undecodable import Undecodable
from liveprofile.wire.tokens import EVENT_TYPES

SPEC_VERSION = "1.0"
REQUIRED = ("specversion", "id", "source", "type")
STRUCTURED = "application/cloudevents"
PREFIX = "ce_"


def read_json(text: bytes) -> Any:
    """Parses JSON strictly. Raises ValueError, RecursionError."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def write_json(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate, which stays an escape
        return json.dumps(value, separators=(",", ":")).encode()


def is_structured(parsed: Any) -> bool:
    """Whether a JSON value has the attributes that every CloudEvent has, and no event has."""
    return isinstance(parsed, dict) and all(isinstance(parsed.get(n), str) for n in REQUIRED)


def is_binary(headers: Mapping[str, bytes]) -> bool:
    return f"{PREFIX}specversion" in headers


def header_attributes(headers: Mapping[str, bytes]) -> dict[str, str]:
    """The attributes of a CloudEvent in binary mode."""
    return {
        name.removeprefix(PREFIX): value.decode("utf-8", "replace")
        for name, value in headers.items()
        if name.startswith(PREFIX)
    }


def structured_data(envelope: dict[str, Any]) -> dict[str, Any]:
    """The data of a CloudEvent in structured mode. Raises Undecodable."""
    data = envelope.get("data")
    if data is None and isinstance(envelope.get("data_base64"), str):
        try:
            data = read_json(base64.b64decode(envelope["data_base64"], validate=True))
        except (binascii.Error, ValueError, RecursionError) as error:
            raise Undecodable("BAD_CLOUDEVENT", f"data_base64: {error}") from None
    if not isinstance(data, dict):
        raise Undecodable("BAD_CLOUDEVENT", "data is no JSON object")
    return data


def completed(event: dict[str, Any], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The event, with what it lacks from the attributes of its CloudEvent. Raises Undecodable.

    event_id is source and id, which together are unique; user_id is subject, event_time is time,
    event_type is the last part of type.
    """
    missing = [name for name in REQUIRED if not isinstance(attributes.get(name), str)]
    if missing or not all(attributes[name] for name in REQUIRED):
        name = (missing or [each for each in REQUIRED if not attributes[each]])[0]
        raise Undecodable("BAD_CLOUDEVENT", f"attribute {name} is missing")
    if attributes["specversion"] != SPEC_VERSION:
        raise Undecodable("BAD_CLOUDEVENT", f"specversion {attributes['specversion']} is not 1.0")
    kind = attributes["type"].rpartition(".")[2]
    fields = {
        "event_id": f"{attributes['source']} {attributes['id']}",
        "user_id": attributes.get("subject"),
        "event_type": kind if kind in EVENT_TYPES else attributes["type"],
        "event_time": _iso_time(attributes.get("time")),
    }
    given = {name: value for name, value in event.items() if value is not None}
    return {name: value for name, value in fields.items() if value is not None} | given


def _iso_time(value: Any) -> Any:
    """RFC 3339 allows small letters, ISO 8601 does not."""
    return value.upper() if isinstance(value, str) else value
