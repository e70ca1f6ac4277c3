"""Segment changes as CloudEvents for the topic segment-changes."""

from __future__ import annotations

import orjson

from liveprofile.alerts.cloud_events import DEFAULT_SOURCE, job_source, to_rfc3339
from liveprofile.segments.membership import MembershipWrite, change_id

CONTENT_TYPE = {"content-type": "application/cloudevents+json"}
_SCHEMA = "https://liveprofile.example/schemas/segment-change.schema.json#/$defs/data"


def change_event(write: MembershipWrite, event_source: str = DEFAULT_SOURCE) -> bytes:
    """Returns a CloudEvent in structured JSON (schemas/segment-change.schema.json).

    event_source: the setting.
    """
    membership = write.membership
    reason = orjson.loads(membership.reason)
    return orjson.dumps(
        {
            "specversion": "1.0",
            "id": change_id(write.user_id, write.segment_id, membership),
            "source": f"{event_source}/segment-sweep"
            if membership.sweep
            else job_source(event_source),
            "type": f"liveprofile.segment.{write.change}",
            "subject": write.user_id,
            "time": to_rfc3339(membership.since_ms),
            "datacontenttype": "application/json",
            "dataschema": _SCHEMA,
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
