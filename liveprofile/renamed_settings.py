"""Settings of earlier versions, and what they are called now."""

from __future__ import annotations

import os
from typing import Any

from liveprofile.errors import ConfigError

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


def refuse_renamed_variables(prefix: str) -> None:
    """Raises ConfigError if a variable has the old name of a setting.

    pydantic ignores a variable that names no setting, so an old name would have no effect.
    """
    for old, new in RENAMED.items():
        variable, present = (f"{prefix}{key.upper().replace('.', '__')}" for key in (old, new))
        if variable in os.environ:
            raise ConfigError(f"variable {variable} is now called {present}")


def renamed(key: str, value: Any) -> tuple[str, str]:
    """The setting at fault and its present name; of a whole section its first key."""
    keys = (f"{key}.{name}" for name in value) if isinstance(value, dict) else ()
    return next(((one, RENAMED[one]) for one in keys if one in RENAMED), (key, RENAMED[key]))
