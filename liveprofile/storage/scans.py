"""Reads all profiles, or all windows of a time, for commands that work on all users.

Raises ServiceError if Cassandra does not answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson
from cassandra.cluster import Session

from liveprofile.storage.cql import from_ms
from liveprofile.storage.queries import StoredProfile, columns, names_of, scan_ring


class WindowChange(NamedTuple):
    """What one window changed."""

    user_id: str
    window_start_ms: int
    window_end_ms: int
    amount: float
    delta: dict[str, Any]


class UserState(NamedTuple):
    """A user's last window and segments."""

    user_id: str
    window_end_ms: int
    segments: list[str]


def scan_users(session: Session) -> Iterator[UserState]:
    """The last window and the segments of all users, unordered."""
    for row in scan_ring(session, f"SELECT {columns(UserState)} FROM user_profile"):
        yield UserState(*row)._replace(segments=names_of(row.segments))


def scan_changes(session: Session, first_end_ms: int, last_end_ms: int) -> Iterator[WindowChange]:
    """The windows that end from the first to the second time; those of a user follow each other."""
    rows = scan_ring(
        session,
        f"SELECT {columns(WindowChange)} FROM profile_delta",
        "AND window_end >= ? AND window_end <= ? ALLOW FILTERING",
        (from_ms(first_end_ms), from_ms(last_end_ms)),
    )
    for row in rows:
        yield WindowChange(*row)._replace(delta=orjson.loads(row.delta))


def scan_profiles(session: Session) -> Iterator[StoredProfile]:
    """All profiles, unordered, with an empty embedding."""
    names = columns(StoredProfile).removesuffix(", embedding")
    for row in scan_ring(session, f"SELECT {names} FROM user_profile"):
        yield StoredProfile(*row, [])._replace(
            segments=names_of(row.segments), profile=orjson.loads(row.profile)
        )
