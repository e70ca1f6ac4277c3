"""Typed reads of segment members, sizes and look-alikes. Every function raises ServiceError."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from cassandra import ConsistencyLevel
from cassandra.cluster import Session
from cassandra.query import SimpleStatement

from liveprofile.rows.users import SEGMENT_BUCKETS
from liveprofile.storage.cql import read, read_pages

SEED_USERS = 256  # members whose embeddings stand for the segment
SEARCHES = 16  # of these, with a search of their own
NEAREST_SEEDS = 5
MAX_NEIGHBOURS = 1_000  # of one search: Cassandra's limit
_READ_USERS = 50  # in one SELECT


class Member(NamedTuple):
    user_id: str
    since_ms: int


class SegmentSize(NamedTuple):
    """The size of a segment at the end of a sweep."""

    time_ms: int
    members: int
    users: int  # all users
    overlaps: dict[str, int]  # members who are in another segment too


class LookAlike(NamedTuple):
    """A user who is not in a segment and resembles its members."""

    user_id: str
    cosine: float  # mean similarity to the NEAREST_SEEDS most similar members, -1..1


def members(session: Session, segment_id: str) -> Iterator[Member]:
    """The members of a segment, in no order; reads page by page in constant memory."""
    for bucket in range(SEGMENT_BUCKETS):
        yield from bucket_members(session, segment_id, bucket)


def bucket_members(
    session: Session, segment_id: str, bucket: int, limit: int = 2**31 - 1
) -> Iterator[Member]:
    query = SimpleStatement(
        "SELECT user_id, to_unix_timestamp(since) AS since_ms FROM segment_member"
        " WHERE segment = %s AND bucket = %s LIMIT %s",
        fetch_size=5_000,
    )
    for row in read_pages(session, query, (segment_id, bucket, limit)):
        yield Member(*row)


def sizes(session: Session, segment_id: str, limit: int = 10) -> list[SegmentSize]:
    """The sizes at the latest sweeps, newest first."""
    query = (
        "SELECT to_unix_timestamp(time) AS time_ms, members, users, overlaps FROM segment_size"
        " WHERE segment = %s LIMIT %s"
    )
    return [
        SegmentSize(row.time_ms, row.members, row.users, dict(row.overlaps or {}))
        for row in read(session, query, (segment_id, limit))
    ]


def look_alikes(session: Session, segment_id: str, k: int) -> list[LookAlike]:
    """The k users most similar to members of a segment who are not in it, best first.

    Up to SEED_USERS members stand for the segment. The neighbours of their mean and of SEARCHES of
    them are ranked. Users without a row in user_lookalike (new ones) are not found. Empty if no
    member has one.
    """
    per_bucket = -(-SEED_USERS // SEGMENT_BUCKETS)
    seeds = itertools.chain.from_iterable(
        bucket_members(session, segment_id, bucket, per_bucket) for bucket in range(SEGMENT_BUCKETS)
    )
    vectors = _embeddings(session, [member.user_id for member in seeds])
    if not vectors:
        return []
    seed_SD = _unit(np.array(list(vectors.values()), np.float32))
    neighbours = min(MAX_NEIGHBOURS, 4 * k + 50)
    step = max(1, len(seed_SD) // SEARCHES)
    candidates: dict[str, Any] = {}
    for target in (_unit(seed_SD.mean(axis=0, keepdims=True))[0], *seed_SD[::step][:SEARCHES]):
        candidates |= _nearest(session, target.tolist(), neighbours)
    outside = _without_members(session, segment_id, list(candidates))
    if not outside:
        return []
    cosine_CS = _unit(np.array([candidates[user] for user in outside], np.float32)) @ seed_SD.T
    nearest = min(NEAREST_SEEDS, cosine_CS.shape[1])
    score_C = np.sort(cosine_CS, axis=1)[:, -nearest:].mean(axis=1)
    order = np.argsort(-score_C, kind="stable")[:k]
    return [LookAlike(outside[i], round(float(score_C[i]), 6)) for i in order]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _embeddings(session: Session, user_ids: Sequence[str]) -> dict[str, list[float]]:
    query = session.prepare("SELECT user_id, embedding FROM user_lookalike WHERE user_id IN ?")
    return {
        row.user_id: list(row.embedding)
        for users in _chunks(user_ids)
        for row in read(session, query, (users,))
        if row.embedding is not None
    }


def _nearest(session: Session, embedding: list[float], limit: int) -> dict[str, list[float]]:
    query = SimpleStatement(
        "SELECT user_id, embedding FROM user_lookalike ORDER BY embedding ANN OF %s LIMIT %s",
        # Cassandra answers ANN queries at no other level.
        consistency_level=ConsistencyLevel.LOCAL_ONE,
    )
    rows = read(session, query, (embedding, limit))
    return {row.user_id: list(row.embedding) for row in rows}


def _without_members(session: Session, segment_id: str, user_ids: Sequence[str]) -> list[str]:
    query = session.prepare(
        "SELECT user_id, member FROM user_segment WHERE user_id IN ? AND segment = ?"
    )
    inside = {
        row.user_id
        for users in _chunks(user_ids)
        for row in read(session, query, (users, segment_id))
        if row.member
    }
    return [user for user in user_ids if user not in inside]


def _chunks(user_ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(user_ids), _READ_USERS):
        yield list(user_ids[start : start + _READ_USERS])
