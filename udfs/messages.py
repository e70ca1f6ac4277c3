"""What the operator has to tell other systems: alerts, and events it could not use.

A message is one string that `jobs.profile_job.messages` splits again: topic, key, reason, detail,
record topic, partition, offset (separated by FIELD; an alert leaves the last five empty), then
WINDOW, then the value.
"""

from __future__ import annotations

from datetime import UTC, datetime

import orjson

from udfs.events import EVENT, FIELD, WINDOW
from udfs.store import Flag, ProfileRow
from udfs.window import Refused

SOURCE = "liveprofile/profile-job"
ALERT_TYPE = "liveprofile.risk.flag"
ALERT_SCHEMA = "https://liveprofile.example/schemas/risk-alert.schema.json#/$defs/data"
_CONTROL = str.maketrans(dict.fromkeys((FIELD, EVENT, WINDOW), "_"))


def iso(time_ms: int) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def cloud_event(flag: Flag, row: ProfileRow) -> bytes:
    """The alert as CloudEvents 1.0 structured JSON (schemas/risk-alert.schema.json)."""
    return orjson.dumps(
        {
            "specversion": "1.0",
            "id": flag.flag_id,
            "source": SOURCE,
            "type": ALERT_TYPE,
            "subject": row.user_id,
            "time": iso(row.window_end_ms),
            "datacontenttype": "application/json",
            "dataschema": ALERT_SCHEMA,
            "data": {
                "user_id": row.user_id,
                "rule_id": flag.rule_id,
                "reason": flag.reason,
                "severity": flag.severity,
                "action": flag.action,
                "value": flag.value,
                "threshold": flag.threshold,
                "message": flag.message,
                "evidence": flag.evidence,
                "window_start": iso(row.window_start_ms),
                "window_end": iso(row.window_end_ms),
                "model_version": row.model_version,
                "rules_version": flag.rules_version,
            },
        }
    )


def _message(head: tuple[str, ...], value: str) -> str:
    return FIELD.join(part.translate(_CONTROL) for part in head) + WINDOW + value


def alert(topic: str, flag: Flag, row: ProfileRow) -> str:
    return _message((topic, row.user_id, "", "", "", "", ""), cloud_event(flag, row).decode())


def rejected(topic: str, events_topic: str, user_id: str, event: Refused) -> str:
    head = (topic, user_id, event.reason, event.detail)
    return _message((*head, events_topic, event.partition, event.offset), event.payload)
