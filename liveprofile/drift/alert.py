"""The alert that drift began or is over: schemas/drift-alert.schema.json."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import orjson

from liveprofile.alerts.cloud_events import SOURCE, iso
from liveprofile.wire.tokens import FIELD

TYPE = "liveprofile.risk.drift"
SCHEMA = "https://liveprofile.example/schemas/drift-alert.schema.json#/$defs/data"


class DriftAlert(NamedTuple):
    state: Literal["started", "ended"]
    period: Literal["hour", "day"]
    start_ms: int  # of the period that decided it
    end_ms: int
    since_ms: int  # start of the first period that drifted
    model_version: str
    reference: str
    events: int
    reasons: Sequence[dict[str, Any]]  # none if ended

    def cloud_event(self) -> bytes:
        """CloudEvents 1.0, structured JSON; the same id for every copy."""
        told = FIELD.join((self.reference, self.period, str(self.start_ms), self.state))
        started = self.state == "started"
        return orjson.dumps(
            {
                "specversion": "1.0",
                "id": hashlib.sha256(told.encode()).hexdigest()[:32],
                "source": SOURCE,
                "type": TYPE,
                "subject": self.model_version,
                "time": iso(self.end_ms),
                "datacontenttype": "application/json",
                "dataschema": SCHEMA,
                "data": {
                    "state": self.state,
                    "period": self.period,
                    "reason": "MODEL_DRIFT" if started else "MODEL_DRIFT_ENDED",
                    "severity": "medium" if started else "low",
                    "action": "review_model" if started else "none",
                    "message": self.sentence(),
                    "period_start": iso(self.start_ms),
                    "period_end": iso(self.end_ms),
                    "since": iso(self.since_ms),
                    "model_version": self.model_version,
                    "reference": self.reference,
                    "events": self.events,
                    "reasons": list(self.reasons),
                },
            }
        )

    def sentence(self) -> str:
        if self.state == "ended":
            return f"what the model sees is as usual again; it was not since {iso(self.since_ms)}"
        names = ", ".join(reason["name"] for reason in self.reasons)
        return f"{self.events} events of one {self.period} are unlike the training data: {names}"
