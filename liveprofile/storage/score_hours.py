"""Partitioning of scored events: each user has one partition of risk_score_by_hour a UTC hour.

So a user with millions of events has no partition that grows without bound. The table
risk_score_hours lists a user's hours.
"""

from __future__ import annotations

from liveprofile.units import HOUR_MS


def score_hour_ms(event_ms: int) -> int:
    """The start of the hour whose partition stores an event of this time."""
    return event_ms - event_ms % HOUR_MS
