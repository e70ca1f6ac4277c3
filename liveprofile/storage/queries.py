"""Typed reads of what the job keeps in Cassandra, for the command line and downstream services.

Each takes a session of `liveprofile.storage.connection.connect`. Times are UTC epoch milliseconds.
Raises ServiceError if Cassandra doesn't answer. The CQL behind them: docs/reading.md.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

import orjson
from cassandra import ConsistencyLevel, DriverException
from cassandra.cluster import NoHostAvailable, ResultSet, Session
from cassandra.protocol import ErrorMessage
from cassandra.query import SimpleStatement

from liveprofile.errors import ServiceError
from liveprofile.storage.connection import describe

TOKEN_MIN, TOKEN_MAX = -(1 << 63), (1 << 63) - 1
SCAN_RANGES = 64
SCAN_PAGE_ROWS = 2_000
FLAG_BUCKETS = tuple(range(8))  # of risk_flag_by_day


class Profile(NamedTuple):
    user_id: str
    window_start_ms: int
    window_end_ms: int
    model_version: str
    feature_version: int
    churn: float
    expected_spend: float
    recency_days: float | None
    purchases_decayed: float
    amount_decayed: float
    events_total: int
    segments: list[str]
    profile: dict[str, Any]
    embedding: list[float]


class Delta(NamedTuple):
    user_id: str
    window_start_ms: int
    window_end_ms: int
    model_version: str
    events: int
    amount: float
    embedding_distance: float
    surprise: float
    active_rules: list[str]
    delta: dict[str, Any]
    digests: bytes  # 8 a used event


class StoredFlag(NamedTuple):
    user_id: str
    window_start_ms: int
    window_end_ms: int
    rule_id: str
    flag_id: str
    reason: str
    severity: str
    action: str
    value: float
    threshold: float
    message: str
    evidence: dict[str, Any]
    model_version: str
    rules_version: str
    # What flags of earlier versions of Liveprofile lack.
    event_id: str = ""  # "": a window raised it
    rule_version: int | None = None
    rule_state: str = "ACTIVE"  # SHADOW: no alert was sent
    reasons: Sequence[dict[str, Any]] = ()  # code, value, usual (or None), sentence


class SimilarUser(NamedTuple):
    user_id: str
    cosine: float  # of the embeddings, -1..1
    segments: list[str]
    window_end_ms: int  # of the embedding compared with, which may be older than the profile


class UsedEvents(NamedTuple):
    user_id: str
    window_start_ms: int
    window_end_ms: int
    events: int
    digests: bytes


def profile(session: Session, user_id: str) -> Profile | None:
    """The user's profile as of the last closed window; None for an unknown user."""
    row = _execute(session, _select("user_profile", Profile, "user_id = %s"), (user_id,)).one()
    if row is None:
        return None
    return Profile(*row)._replace(
        segments=_names(row.segments),
        profile=orjson.loads(row.profile),
        embedding=list(row.embedding),
    )


def deltas(session: Session, user_id: str, limit: int = 20) -> list[Delta]:
    """What the user's latest windows changed, newest first."""
    query = _select("profile_delta", Delta, "user_id = %s LIMIT %s")
    return [
        Delta(*row)._replace(active_rules=_names(row.active_rules), delta=orjson.loads(row.delta))
        for row in _execute(session, query, (user_id, limit))
    ]


def flags(
    session: Session,
    user_id: str | None = None,
    since_ms: int | None = None,
    limit: int = 100,
) -> list[StoredFlag]:
    """Risk flags, newest first, of one user or of all.

    since_ms: only of windows that end, or events that are, then or later.
    """
    since = _from_ms(since_ms or 0)
    if user_id is not None:
        query = _select("risk_flag", StoredFlag, "user_id = %s AND window_end >= %s LIMIT %s")
        return list(map(_flag, _execute(session, query, (user_id, since, limit))))
    query = _select(
        "risk_flag_by_day", StoredFlag, "day = %s AND bucket = %s AND window_end >= %s LIMIT %s"
    )
    found: list[StoredFlag] = []
    for day in _days_with_flags(session, since.date()):
        buckets = [
            map(_flag, _execute(session, query, (day, bucket, since, limit - len(found))))
            for bucket in FLAG_BUCKETS
        ]
        merged = heapq.merge(*buckets, key=lambda flag: -flag.window_end_ms)
        found += itertools.islice(merged, limit - len(found))
        if len(found) >= limit:
            break
    return found


def similar_users(
    session: Session, user_id: str, k: int = 10, segment: str | None = None
) -> list[SimilarUser]:
    """The k users most like this one by their embeddings, best first; within a segment if named.

    Empty for an unknown user. Approximate: a graph index answers (Cassandra's SAI, JVector).
    """
    own = profile(session, user_id)
    if own is None:
        return []
    where, of_segment = ("WHERE segments CONTAINS %s ", [segment]) if segment else ("", [])
    query = SimpleStatement(
        "SELECT user_id, similarity_cosine(embedding, %s) AS cosine, segments,"
        " to_unix_timestamp(window_end) AS window_end_ms"
        f" FROM user_lookalike {where}ORDER BY embedding ANN OF %s LIMIT %s",
        # The only level at which Cassandra answers these.
        consistency_level=ConsistencyLevel.LOCAL_ONE,
    )
    rows = _execute(session, query, (own.embedding, *of_segment, own.embedding, k + 1))
    found = [SimilarUser(*row)._replace(segments=_names(row.segments)) for row in rows]
    return [user for user in found if user.user_id != user_id][:k]


def all_deltas(session: Session) -> Iterator[UsedEvents]:
    """Every stored delta's event digests, in no order, page by page: memory stays flat."""
    query = session.prepare(
        f"SELECT {_columns(UsedEvents)} FROM profile_delta"
        " WHERE token(user_id) > ? AND token(user_id) <= ?"
    )
    query.fetch_size = SCAN_PAGE_ROWS
    edges = [
        TOKEN_MIN + (TOKEN_MAX - TOKEN_MIN) * part // SCAN_RANGES for part in range(SCAN_RANGES + 1)
    ]
    try:
        for after, upto in itertools.pairwise(edges):
            for row in session.execute(query, (after, upto)):
                yield UsedEvents(*row)
    except (NoHostAvailable, DriverException, ErrorMessage) as error:
        raise ServiceError(f"Cassandra, reading profile_delta: {describe(error)}") from None


def _days_with_flags(session: Session, since: date) -> list[date]:
    """Newest first. Days are few, so their partition keys are listed: a replay's lie far back."""
    rows = _execute(session, "SELECT DISTINCT day, bucket FROM risk_flag_by_day", ())
    days = {row.day.date() for row in rows}
    return sorted((day for day in days if day >= since), reverse=True)


def _flag(row: Any) -> StoredFlag:
    return StoredFlag(*row)._replace(
        evidence=orjson.loads(row.evidence),
        event_id=row.event_id or "",
        rule_state=row.rule_state or "ACTIVE",
        reasons=orjson.loads(row.reasons) if row.reasons else [],
    )


def _columns(kind: type[NamedTuple]) -> str:
    """The columns of a row type; name_ms is the column `name` in milliseconds."""
    return ", ".join(
        f"to_unix_timestamp({name.removesuffix('_ms')}) AS {name}" if name.endswith("_ms") else name
        for name in kind._fields
    )


def _select(table: str, kind: type[NamedTuple], where: str) -> str:
    return f"SELECT {_columns(kind)} FROM {table} WHERE {where}"


def _execute(session: Session, query: str | SimpleStatement, values: Sequence[Any]) -> ResultSet:
    try:
        return session.execute(query, values)
    except (NoHostAvailable, DriverException, ErrorMessage) as error:
        raise ServiceError(f"Cassandra, reading {session.keyspace}: {describe(error)}") from None


def _names(names: Sequence[str] | None) -> list[str]:
    return sorted(names or ())


def _from_ms(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC)
