"""The alert that drift has started or ended, after schemas/drift-alert.schema.json."""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from liveprofile.wire.tokens import FIELD
from liveprofile.wire.user_records import DEFAULT_SOURCE, RecordKind, job_source, to_rfc3339

DRIFT_ALERT_TYPE = "liveprofile.risk.drift"
DRIFT_ALERT_SCHEMA = "https://liveprofile.example/schemas/drift-alert.schema.json#/$defs/data"


class DriftAlert(NamedTuple):
    state: Literal["started", "ended"]
    start_ms: int  # start of the hour that decided it
    end_ms: int
    since_ms: int  # start of the first drifted hour
    model_version: str
    reference: str  # version of the drift reference
    events: int
    reasons: Sequence[dict[str, Any]]  # empty if ended
    event_source: str = DEFAULT_SOURCE

    def cloud_event(self) -> bytes:
        """Returns CloudEvents 1.0 structured JSON. Copies of an alert have the same id."""
        identity = FIELD.join((self.reference, str(self.start_ms), self.state))
        event_id = hashlib.sha256(identity.encode()).hexdigest()[:32]
        started = self.state == "started"
        kind = RecordKind(job_source(self.event_source), DRIFT_ALERT_TYPE, DRIFT_ALERT_SCHEMA)
        data = {
            "state": self.state,
            "reason": "MODEL_DRIFT" if started else "MODEL_DRIFT_ENDED",
            "severity": "medium" if started else "low",
            "action": "review_model" if started else "none",
            "message": self.sentence(),
            "period_start": to_rfc3339(self.start_ms),
            "period_end": to_rfc3339(self.end_ms),
            "since": to_rfc3339(self.since_ms),
            "model_version": self.model_version,
            "reference": self.reference,
            "events": self.events,
            "reasons": list(self.reasons),
        }
        return kind.value(self.model_version, to_rfc3339(self.end_ms), data, event_id)

    def sentence(self) -> str:
        if self.state == "ended":
            return (
                "events resemble the training data again; they differed since"
                f" {to_rfc3339(self.since_ms)}"
            )
        names = ", ".join(reason["name"] for reason in self.reasons)
        return f"{self.events} events of one hour are unlike the training data: {names}"
