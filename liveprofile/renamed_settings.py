"""Settings of earlier versions, and what they are called now."""

from __future__ import annotations

RENAMED = {
    "limits.future_ms": "limits.max_clock_skew_ms",
    "kafka.start": "kafka.startup_mode",
    "kafka.answer_timeout_ms": "kafka.request_timeout_ms",
    "cassandra.give_up_after_ms": "cassandra.retry_timeout_ms",
    "risk.lane": "scoring.enabled",
    "risk.parts_ttl_ms": "scoring.rejoin_ttl_ms",
    "risk.history": "scoring.history",
    "risk.checkpoint": "scoring.checkpoint",
    "risk.score_ttl_s": "scoring.score_ttl_s",
    "risk.drift_after_days": "scoring.drift_after_days",
    "risk": "scoring",
}
