"""Typed reads of the job's tables, for the command line and downstream services.

Every function takes a session of `liveprofile.storage.connection.connect` and raises ServiceError
if Cassandra does not answer. Times are UTC epoch milliseconds. docs/reading.md documents the CQL.
"""

import heapq
import itertools
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any, NamedTuple, Self

import orjson
from cassandra import ConsistencyLevel
from cassandra.cluster import Session
from cassandra.query import SimpleStatement

from liveprofile.rows.profiles import StoredDelta, UserProfile
from liveprofile.rows.risk import FLAG_BUCKETS, StoredFlag, StoredScore, score_hour_ms
from liveprofile.rows.table import columns
from liveprofile.storage.cql import from_ms, prepare, read, read_pages
from liveprofile.storage.erasures import without_erased
from liveprofile.value_curves import STORED_COLUMNS, values_at

TOKEN_MIN, TOKEN_MAX = -(1 << 63), (1 << 63) - 1
SCAN_RANGES = 64
SCAN_PAGE_ROWS = 2_000


class StoredProfile(UserProfile):
    """A row of user_profile."""

    __slots__ = ()

    def at(self, time_ms: int) -> Self:
        """The row with churn and expected spend as of a time without events after the window.

        Other columns, and the JSON, stay as of the window's end. A row without a curve stays.
        """
        stored = {name: getattr(self, name) for name in STORED_COLUMNS}
        values = values_at(self.profile, stored, self.window_end_ms, time_ms)
        return self._replace(**{name: values[name] for name in STORED_COLUMNS})


class SimilarUser(NamedTuple):
    """A neighbour of a user in the embedding space."""

    user_id: str
    cosine: float  # similarity of the embeddings, -1..1
    segments: list[str]
    window_end_ms: int  # of the indexed embedding, which may be older than the profile


class WindowDigests(NamedTuple):
    """Digests of the events that one window used, 8 bytes per event."""

    user_id: str
    window_start_ms: int
    window_end_ms: int
    events: int
    digests: bytes
    revision: int | None = None  # of a correction; None: the job's window


class WindowChange(NamedTuple):
    """What one window changed."""

    user_id: str
    window_start_ms: int
    window_end_ms: int
    amount: float
    delta: dict[str, Any]


def profile(session: Session, user_id: str) -> StoredProfile | None:
    """The user's profile as of the last closed window; None for an unknown user."""
    row = read(session, select("user_profile", StoredProfile, "user_id = %s"), (user_id,)).one()
    if row is None:
        return None
    return StoredProfile(*row)._replace(
        segments=names_of(row.segments),
        profile=orjson.loads(row.profile),
        embedding=list(row.embedding),
    )


def deltas(
    session: Session, user_id: str, limit: int = 20, until_ms: int | None = None
) -> list[StoredDelta]:
    """The changes of the user's latest windows, newest first.

    `until_ms`: only of windows that ended by then.
    """
    until, values = "", [user_id]
    if until_ms is not None:
        until, values = " AND window_end <= %s", [user_id, from_ms(until_ms)]
    query = select("profile_delta", StoredDelta, f"user_id = %s{until} LIMIT %s")
    return [
        StoredDelta(*row)._replace(
            active_rules=names_of(row.active_rules), delta=orjson.loads(row.delta)
        )
        for row in read(session, query, (*values, limit))
    ]


def flags(
    session: Session,
    user_id: str | None = None,
    since_ms: int | None = None,
    limit: int = 100,
) -> list[StoredFlag]:
    """Risk flags of one user or of all users, newest first.

    `since_ms`: only flags of windows that end, or of events that happen, at this time or later.
    """
    since = from_ms(since_ms or 0)
    if user_id is not None:
        query = select("risk_flag", StoredFlag, "user_id = %s AND window_end >= %s LIMIT %s")
        return list(map(stored_flag, read(session, query, (user_id, since, limit))))
    query = select(
        "risk_flag_by_day", StoredFlag, "day = %s AND bucket = %s AND window_end >= %s LIMIT %s"
    )
    merged: list[StoredFlag] = []
    for day in _days_with_flags(session, since.date()):
        buckets = [
            map(stored_flag, read(session, query, (day, bucket, since, limit - len(merged))))
            for bucket in range(FLAG_BUCKETS)
        ]
        newest_first = heapq.merge(*buckets, key=lambda flag: -flag.window_end_ms)
        merged += itertools.islice(newest_first, limit - len(merged))
        if len(merged) >= limit:
            break
    return merged


def scores(session: Session, user_id: str, limit: int = 50) -> list[StoredScore]:
    """The user's latest scored events, newest first. Each hour with events takes one read."""
    query = session.prepare("SELECT hour FROM risk_score_hours WHERE user_id = ?")
    of_hour = select("risk_score_by_hour", StoredScore, "user_id = %s AND hour = %s LIMIT %s")
    found: list[StoredScore] = []
    for (hour,) in read_pages(session, query, (user_id,)):
        rows = read(session, of_hour, (user_id, hour, limit - len(found)))
        found += map(stored_score, rows)
        if len(found) >= limit:
            break
    return found


def score(session: Session, user_id: str, event_time_ms: int, event_id: str) -> StoredScore | None:
    """One scored event; None if it is not stored."""
    key = "user_id = %s AND event_time = %s AND event_id = %s"
    values = (user_id, from_ms(event_time_ms), event_id)
    query = select("risk_score_by_hour", StoredScore, f"{key} AND hour = %s")
    row = read(session, query, (*values, from_ms(score_hour_ms(event_time_ms)))).one()
    return None if row is None else stored_score(row)


def similar_users(
    session: Session, user_id: str, k: int = 10, segment: str | None = None
) -> list[SimilarUser] | None:
    """The k users with the most similar embeddings, best first, optionally within a segment.

    None for an unknown user. The search is approximate: Cassandra's SAI uses a graph index
    (JVector). Users whose rows an erasure has not deleted yet are left out.
    """
    own = read(session, "SELECT embedding FROM user_profile WHERE user_id = %s", (user_id,)).one()
    if own is None:
        return None
    where, segment_values = ("WHERE segments CONTAINS %s ", [segment]) if segment else ("", [])
    query = SimpleStatement(
        "SELECT user_id, similarity_cosine(embedding, %s) AS cosine, segments,"
        " to_unix_timestamp(window_end) AS window_end_ms"
        f" FROM user_lookalike {where}ORDER BY embedding ANN OF %s LIMIT %s",
        # Cassandra answers ANN queries at no other level.
        consistency_level=ConsistencyLevel.LOCAL_ONE,
    )
    rows = read(session, query, (own.embedding, *segment_values, own.embedding, k + 1))
    users = [SimilarUser(*row)._replace(segments=names_of(row.segments)) for row in rows]
    shown = without_erased(session, users, "window_end_ms")
    return [user for user in shown if user.user_id != user_id][:k]


def scan_digests(
    session: Session, window_ends_ms: tuple[int, int] | None = None
) -> Iterator[WindowDigests]:
    """The event digests of stored deltas, unordered; reads page by page in constant memory.

    `window_ends_ms`: only of windows that end from the first to the second time. Cassandra reads
    all users for it, but skips the files of other days.
    """
    select_all = f"SELECT {columns(WindowDigests)} FROM profile_delta"
    between = window_ends_ms and ("window_end", *window_ends_ms)
    return map(WindowDigests._make, scan_ring(session, select_all, between))


def scan_changes(session: Session, first_end_ms: int, last_end_ms: int) -> Iterator[WindowChange]:
    """The windows that end from the first to the second time; those of a user follow each other."""
    rows = scan_ring(
        session,
        f"SELECT {columns(WindowChange)} FROM profile_delta",
        ("window_end", first_end_ms, last_end_ms),
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


def scan_ring(
    session: Session,
    statement: str,
    between: tuple[str, int, int] | None = None,
    key: str = "user_id",
) -> Iterator[Any]:
    """Yields the rows of a SELECT without WHERE, by 64 token ranges and pages of 2,000 rows.

    between: only rows with a time in this column from the first to the second epoch ms. key: the
    columns of the partition key; its rows follow each other. Raises ServiceError.
    """
    where, values = f"token({key}) > ? AND token({key}) <= ?", []
    if between is not None:
        column, *ends_ms = between
        where += f" AND {column} >= ? AND {column} <= ? ALLOW FILTERING"
        values = list(map(from_ms, ends_ms))
    query = prepare(session, f"{statement} WHERE {where}")
    query.fetch_size = SCAN_PAGE_ROWS
    edges = [
        TOKEN_MIN + (TOKEN_MAX - TOKEN_MIN) * part // SCAN_RANGES for part in range(SCAN_RANGES + 1)
    ]
    for span in itertools.pairwise(edges):
        yield from read_pages(session, query, (*span, *values))


def _days_with_flags(session: Session, since: date) -> list[date]:
    """Days from `since` on that have flags, newest first.

    Lists the partition keys, because the flags of a replay can lie far in the past. Days are few.
    """
    rows = read(session, "SELECT DISTINCT day, bucket FROM risk_flag_by_day", ())
    days = {row.day.date() for row in rows}
    return sorted((day for day in days if day >= since), reverse=True)


def stored_score(row: Any) -> StoredScore:
    """A row of the columns of StoredScore as a StoredScore."""
    score = StoredScore(*row)
    return score._replace(active_rules=names_of(score.active_rules))


def stored_flag(row: Any) -> StoredFlag:
    """A row of the columns of StoredFlag as a StoredFlag."""
    flag = StoredFlag(*row)
    return flag._replace(
        evidence=orjson.loads(flag.evidence), reasons=orjson.loads(flag.reasons or "[]")
    )


def select(table: str, kind: type[NamedTuple], where: str) -> str:
    """A SELECT of the columns of a row type."""
    return f"SELECT {columns(kind)} FROM {table} WHERE {where}"


def names_of(names: Sequence[str] | None) -> list[str]:
    """A stored set, in alphabetical order."""
    return sorted(names or ())
