"""Risk flags as CloudEvents for the alert topic, and what all CloudEvents of the product share."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import NamedTuple

from liveprofile.alerts.cases.snooze import is_snoozed
from liveprofile.rules.flags import Flag, FlaggedRow
from liveprofile.settings import JobSettings
from liveprofile.units import SECOND_MS
from liveprofile.wire import output_records
from liveprofile.wire.tokens import FIELD
from liveprofile.wire.user_records import RecordKind

ALERT_TYPE = "liveprofile.risk.flag"
ALERT_SCHEMA = "https://liveprofile.example/schemas/risk-alert.schema.json#/$defs/data"


class EventOrigin(NamedTuple):
    """The settings job.event_source and job.event_type_prefix, which tell deployments apart."""

    source: str = "liveprofile"
    type_prefix: str = ""

    @property
    def job(self) -> str:
        """The `source` of the events that the job sends."""
        return f"{self.source}/profile-job"

    def type_of(self, name: str) -> str:
        """The `type` of an event of the product, such as ALERT_TYPE."""
        return f"{self.type_prefix}.{name}" if self.type_prefix else name


DEFAULT_ORIGIN = EventOrigin()


def origin_of(job: JobSettings) -> EventOrigin:
    return EventOrigin(job.event_source, job.event_type_prefix)


def is_type(event_type: str, name: str) -> bool:
    """Whether a `type` is this one of the product, of a deployment with any prefix."""
    return event_type == name or event_type.endswith(f".{name}")


def traceparent(event_id: str, *cause: str) -> str:
    """W3C Trace Context of a CloudEvent: the same in each of its copies.

    cause: what the event comes from, such as a user's window. All events of a cause are one trace.
    The last field is 00: nobody has recorded spans. https://www.w3.org/TR/trace-context/
    """
    trace, parent = (
        blake2b(text.encode(errors="surrogatepass"), digest_size=size).hexdigest()
        for text, size in ((FIELD.join(cause), 16), (event_id, 8))
    )
    return f"00-{trace}-{parent}-00"


def window_cause(user_id: str, window_end_ms: int) -> tuple[str, ...]:
    """For `traceparent`: a user's window."""
    return ("window", user_id, str(window_end_ms))


def to_rfc3339(time_ms: int) -> str:
    """Returns the time as RFC 3339 in UTC, with milliseconds."""
    moment = datetime.fromtimestamp(time_ms / SECOND_MS, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def cloud_event(flag: Flag, row: FlaggedRow, origin: EventOrigin = DEFAULT_ORIGIN) -> bytes:
    """Returns the alert as CloudEvents 1.0 structured JSON (schemas/risk-alert.schema.json)."""
    cause = (
        ("event", row.user_id, flag.event_id)
        if flag.event_id
        else window_cause(row.user_id, row.window_end_ms)
    )
    kind = RecordKind(origin.job, origin.type_of(ALERT_TYPE), ALERT_SCHEMA)
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
        "window_start": to_rfc3339(row.window_start_ms),
        "window_end": to_rfc3339(row.window_end_ms),
        "model_version": row.model_version,
        "rules_version": flag.rules_version,
        "rule_version": flag.rule_version,
        "rule_state": flag.rule_state,
        "event_id": flag.event_id or None,
        "reasons": list(flag.reasons),
    }
    time, trace = to_rfc3339(row.window_end_ms), traceparent(flag.flag_id, *cause)
    return kind.value(row.user_id, time, data, flag.flag_id, traceparent=trace)


def alert_records(
    topic: str,
    row: FlaggedRow,
    snoozed_until_ms: Mapping[str, int],
    origin: EventOrigin = DEFAULT_ORIGIN,
) -> list[str]:
    """Returns one output record for each flag whose rule is ACTIVE and not snoozed.

    snoozed_until_ms: the user's snoozes, {rule_id or ALL_RULES: end in ms of the wall clock}.
    """
    now_ms = round(time.time() * SECOND_MS)
    return [
        output_records.record(topic, row.user_id, cloud_event(flag, row, origin).decode())
        for flag in row.flags
        if flag.rule_state == "ACTIVE" and not is_snoozed(snoozed_until_ms, flag.rule_id, now_ms)
    ]
