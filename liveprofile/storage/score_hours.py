"""Partitioning of scored events: each user has one partition of risk_score_by_hour a UTC hour.

So a user with millions of events has no partition that grows without bound. The table
risk_score_hours lists a user's hours.
"""

from __future__ import annotations

from cassandra.cluster import Session

from liveprofile.storage.cql import read
from liveprofile.units import HOUR_MS

# The table of earlier versions, with one partition a user. Nothing is written to it any more.
OLDER_TABLE = "risk_score"


def score_hour_ms(event_ms: int) -> int:
    """The start of the hour whose partition stores an event of this time."""
    return event_ms - event_ms % HOUR_MS


def has_older_table(session: Session, keyspace: str) -> bool:
    """Whether the keyspace still has OLDER_TABLE. Raises ServiceError."""
    rows = read(
        session,
        "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s AND table_name = %s",
        (keyspace, OLDER_TABLE),
    )
    return rows.one() is not None
