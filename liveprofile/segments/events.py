"""Segment changes as CloudEvents for the topic segment-changes."""

from __future__ import annotations

import orjson

from liveprofile.alerts.cloud_events import (
    DEFAULT_ORIGIN,
    EventOrigin,
    to_rfc3339,
    traceparent,
    window_cause,
)
from liveprofile.segments.membership import MembershipWrite, change_id

_SCHEMA = "https://liveprofile.example/schemas/segment-change.schema.json#/$defs/data"


def change_event(write: MembershipWrite, origin: EventOrigin = DEFAULT_ORIGIN) -> bytes:
    """Returns a CloudEvent in structured JSON (schemas/segment-change.schema.json)."""
    membership = write.membership
    reason = orjson.loads(membership.reason)
    event_id = change_id(write.user_id, write.segment_id, membership)
    cause = (
        ("sweep", write.user_id, str(membership.since_ms))
        if membership.sweep
        else window_cause(write.user_id, membership.window_end_ms)
    )
    return orjson.dumps(
        {
            "specversion": "1.0",
            "id": event_id,
            "source": f"{origin.source}/segment-sweep" if membership.sweep else origin.job,
            "type": origin.type_of(f"liveprofile.segment.{write.change}"),
            "subject": write.user_id,
            "time": to_rfc3339(membership.since_ms),
            "datacontenttype": "application/json",
            "dataschema": _SCHEMA,
            "traceparent": traceparent(event_id, *cause),
            "data": {
                "user_id": write.user_id,
                "segment_id": write.segment_id,
                "segment_version": membership.version,
                "change": write.change,
                "number": membership.number,
                "cause": reason["cause"],
                "values": reason["values"],
                "window_end": to_rfc3339(membership.window_end_ms),
            },
        }
    )
