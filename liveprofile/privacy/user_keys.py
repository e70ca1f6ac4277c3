"""The keys under which a user's rows lie in tables that are not keyed by the user alone."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from cassandra.cluster import Session

from liveprofile.storage.cql import prepare_once, read_pages


class UserKeys(NamedTuple):
    user_id: str
    flag_ids: frozenset[str] = frozenset()
    flag_ends: tuple[datetime, ...] = ()  # window_end of the flags, distinct, ascending
    segments: tuple[str, ...] = ()
    hours: tuple[datetime, ...] = ()  # with scored events, ascending

    def with_hour(self, time: datetime) -> UserKeys:
        """The keys with the hour of a UTC time, whether it has events or not."""
        hour = time.replace(minute=0, second=0, microsecond=0, tzinfo=None)
        return self._replace(hours=tuple(sorted({*self.hours, hour})))


def read_user_keys(session: Session, user_id: str) -> UserKeys:
    """Reads the keys from the tables that list them. Raises ServiceError."""

    def rows(table: str, columns: str) -> list[Any]:
        query = prepare_once(session, f"SELECT {columns} FROM {table} WHERE user_id = ?")
        return list(read_pages(session, query, (user_id,)))

    flags = rows("risk_flag", "flag_id, window_end")
    flag_ids = {row.flag_id for row in flags}
    for row in rows("risk_case", "alerts"):
        flag_ids |= set(row.alerts or ())
    segments = {row.segment for row in rows("user_segment", "segment")}
    segments |= {row.segment for row in rows("segment_change", "segment")}
    return UserKeys(
        user_id,
        frozenset(flag_ids),
        tuple(sorted({row.window_end for row in flags})),
        tuple(sorted(segments)),
        tuple(sorted(row.hour for row in rows("risk_score_hours", "hour"))),
    )
