"""Risk flags as CloudEvents for the alert topic."""

import time
from collections.abc import Mapping

from liveprofile.rules.flags import Flag, FlaggedRow, is_snoozed
from liveprofile.units import SECOND_MS
from liveprofile.wire import output_records
from liveprofile.wire.user_records import DEFAULT_SOURCE, RecordKind, job_source, to_rfc3339

ALERT_TYPE = "liveprofile.risk.flag"
ALERT_SCHEMA = "https://liveprofile.example/schemas/risk-alert.schema.json#/$defs/data"


def cloud_event(flag: Flag, row: FlaggedRow, event_source: str = DEFAULT_SOURCE) -> bytes:
    """Returns the alert as CloudEvents 1.0 structured JSON (schemas/risk-alert.schema.json)."""
    kind = RecordKind(job_source(event_source), ALERT_TYPE, ALERT_SCHEMA)
    start, end = to_rfc3339(row.window_start_ms), to_rfc3339(row.window_end_ms)
    data = {
        "user_id": row.user_id,
        "rule_id": flag.rule_id,
        "reason": flag.reason,
        "severity": flag.severity,
        "action": flag.action,
        "value": flag.value,
        "threshold": flag.threshold,
        "message": flag.message,
        "evidence": flag.evidence,
        "window_start": start,
        "window_end": end,
        "model_version": row.model_version,
        "rules_version": flag.rules_version,
        "rule_version": flag.rule_version,
        "rule_state": flag.rule_state,
        "event_id": flag.event_id or None,
        "reasons": list(flag.reasons),
    }
    return kind.value(row.user_id, end, data, flag.flag_id)


def alert_records(
    topic: str,
    row: FlaggedRow,
    snoozed_until_ms: Mapping[str, int],
    event_source: str = DEFAULT_SOURCE,
) -> list[str]:
    """Returns one output record for each flag whose rule is ACTIVE and not snoozed.

    snoozed_until_ms: the user's snoozes, {rule_id or ALL_RULES: end in ms of the wall clock}.
    """
    now_ms = round(time.time() * SECOND_MS)
    events = [
        cloud_event(flag, row, event_source).decode()
        for flag in row.flags
        if flag.rule_state == "ACTIVE" and not is_snoozed(snoozed_until_ms, flag.rule_id, now_ms)
    ]
    return [output_records.record(topic, row.user_id, event) for event in events]
