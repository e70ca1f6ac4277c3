"""Events in the formats that `liveprofile events decode` reads."""

import io
from typing import Any

import fastavro

# As a shop would write it: a time of a logical type, an amount as decimal, a nested record.
AVRO_EVENT = {
    "type": "record",
    "name": "Event",
    "namespace": "com.shop",
    "fields": [
        {"name": "event_id", "type": "string"},
        {"name": "user_id", "type": "long"},
        {
            "name": "event_type",
            "type": {"type": "enum", "name": "Kind", "symbols": ["view", "purchase"]},
        },
        {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "item_id", "type": ["null", "string"], "default": None},
        {
            "name": "amount",
            "type": [
                "null",
                {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2},
            ],
        },
        {
            "name": "place",
            "type": [
                "null",
                {
                    "type": "record",
                    "name": "Place",
                    "fields": [
                        {"name": "lat", "type": "double"},
                        {"name": "lon", "type": "double"},
                    ],
                },
            ],
        },
        {"name": "tags", "type": {"type": "array", "items": "string"}},
    ],
}


def framed(schema_id: int, body: bytes) -> bytes:
    """Confluent wire format: magic byte, schema id, body."""
    return b"\0" + schema_id.to_bytes(4, "big", signed=schema_id < 0) + body


def avro(schema: Any, event: Any) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), event)
    return stream.getvalue()
