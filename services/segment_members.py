"""Typed reads of segment members and sizes. Every function raises ServiceError."""

from collections.abc import Iterator
from typing import NamedTuple

from cassandra.cluster import Session
from cassandra.query import SimpleStatement

from liveprofile.rows.users import SEGMENT_BUCKETS
from liveprofile.storage.cql import read, read_pages
from liveprofile.storage.erasures import without_erased


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
