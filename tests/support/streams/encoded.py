"""Events in the formats that `liveprofile events decode` reads."""

import io
from typing import Any

import fastavro


def record_schema(name: str, **types: Any) -> dict[str, Any]:
    """The Avro schema of a record. types: of its fields."""
    fields = [{"name": field, "type": kind} for field, kind in types.items()]
    return {"type": "record", "name": name, "fields": fields}


# As a shop would write it: a time of a logical type, an amount as decimal, a nested record.
AVRO_EVENT = {"namespace": "com.shop"} | record_schema(
    "Event",
    event_id="string",
    user_id="long",
    event_type={"type": "enum", "name": "Kind", "symbols": ["view", "purchase"]},
    event_time={"type": "long", "logicalType": "timestamp-millis"},
    item_id=["null", "string"],
    amount=["null", {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}],
    place=["null", record_schema("Place", lat="double", lon="double")],
    tags={"type": "array", "items": "string"},
)


def framed(schema_id: int, body: bytes) -> bytes:
    """Confluent wire format: magic byte, schema id, body."""
    return b"\0" + schema_id.to_bytes(4, "big", signed=schema_id < 0) + body


def avro(schema: Any, event: Any) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), event)
    return stream.getvalue()
