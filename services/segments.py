"""Members and sizes of segments, and sweeps. Every function raises ServiceError."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from cassandra.cluster import Session
from cassandra.query import SimpleStatement

from liveprofile.rows.users import SEGMENT_BUCKETS
from liveprofile.settings import Settings
from liveprofile.storage.cql import read, read_pages
from liveprofile.storage.erasures import without_erased
from services.definitions import read_kind

if TYPE_CHECKING:
    from offline.sweep import SweepResult
    from offline.sweep_store import SweepState


class Member(NamedTuple):
    """A user of a segment, and since when."""

    user_id: str
    since_ms: int


class SegmentSize(NamedTuple):
    """The size of a segment at the end of a sweep."""

    time_ms: int
    members: int
    users: int  # all users


def members(session: Session, segment_id: str) -> Iterator[Member]:
    """The members of a segment, in no order, but no erased ones; reads a bucket at a time."""
    query = SimpleStatement(
        "SELECT user_id, to_unix_timestamp(since) AS since_ms FROM segment_member"
        " WHERE segment = %s AND bucket = %s",
        fetch_size=5_000,
    )
    for bucket in range(SEGMENT_BUCKETS):
        rows = [Member(*row) for row in read_pages(session, query, (segment_id, bucket))]
        yield from without_erased(session, rows, "since_ms")


def sizes(session: Session, segment_id: str, limit: int = 10) -> list[SegmentSize]:
    """The sizes at the latest sweeps, newest first."""
    query = (
        "SELECT to_unix_timestamp(time) AS time_ms, members, users FROM segment_size"
        " WHERE segment = %s LIMIT %s"
    )
    return [SegmentSize(*row) for row in read(session, query, (segment_id, limit))]


def sweep_all(
    settings: Settings,
    session: Session,
    time_ms: int,
    on_page: Callable[[SweepState], None] = lambda state: None,
    on_repeat: Callable[[str], None] = lambda reason: None,
) -> SweepResult:
    """Sweeps until the definitions are those of the sweep; the counts of all.

    on_page: as of `Sweep`. on_repeat: called with the reason before another sweep.
    """
    # The API, which lists members, needs nothing of a sweep.
    from offline.sweep import run_sweep

    entered = left = 0
    while True:
        found = read_kind(settings, "segments").definitions
        result = run_sweep(settings, session, found, time_ms, on_page=on_page)
        entered, left = entered + result.entered, left + result.left
        if read_kind(settings, "segments").definitions.version == result.state.version:
            return result._replace(entered=entered, left=left)
        on_repeat("the definitions have changed since the sweep began: once more")
