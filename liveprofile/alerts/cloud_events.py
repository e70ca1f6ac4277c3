"""Risk flags as CloudEvents for the alert topic."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime

import orjson

from liveprofile.alerts.cases.snooze import covers
from liveprofile.rules.flags import Flag, Flagged
from liveprofile.wire import output_records

SOURCE = "liveprofile/profile-job"


ALERT_TYPE = "liveprofile.risk.flag"


ALERT_SCHEMA = "https://liveprofile.example/schemas/risk-alert.schema.json#/$defs/data"


def iso(time_ms: int) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def cloud_event(flag: Flag, row: Flagged) -> bytes:
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
                "rule_version": flag.rule_version,
                "rule_state": flag.rule_state,
                "event_id": flag.event_id or None,
                "reasons": list(flag.reasons),
            },
        }
    )


def alerts(topic: str, row: Flagged, snoozed: Mapping[str, int]) -> list[str]:
    """One for each flag of the row, but for those of a rule in SHADOW or snoozed.

    snoozed: until when (ms, by the clock) which rules of the user are
    """
    now_ms = round(time.time() * 1000)
    return [
        output_records.plain(topic, row.user_id, cloud_event(flag, row).decode())
        for flag in row.flags
        if flag.rule_state == "ACTIVE" and not covers(snoozed, flag.rule_id, now_ms)
    ]
