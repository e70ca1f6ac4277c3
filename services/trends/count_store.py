"""Counts of a series in an hour or a day: what they are, and the tables that keep them.

Distinct users are counted with the k smallest hashes (KMV). Up to `EXACT_USERS` users of a category
(`EXACT_USERS_OF_ALL` of all categories together) the count is exact. Beyond that it is the estimate
(k - 1) / U of Bar-Yossef and others (RANDOM 2002) in the unbiased form of Beyer and others (SIGMOD
2007), U being the k-th smallest hash as a share of all hashes; its relative standard error is
1 / sqrt(k - 2): 4.4 % and 1.6 %.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from cassandra.cluster import Session
from cassandra.query import BatchStatement, BatchType, BoundStatement

from liveprofile.rows.operations import TREND, TREND_CHUNK, TREND_SERIES
from liveprofile.settings import CassandraSettings, Settings
from liveprofile.storage.cql import (
    MAX_BATCH_BYTES,
    execute,
    from_ms,
    prepare,
    read,
    read_pages,
    to_ms,
    write_all,
)
from liveprofile.units import DAY_MS, HOUR_MS


class StoredCount(NamedTuple):
    """The counts of a series in one hour or day."""

    start_ms: int
    events: int
    amount: float
    users: int


# Starts in one SELECT: each finds one row.
MAX_STARTS = 100
# Of a row besides its hashes: keys, values and what the protocol adds.
_ROW_BYTES = 400


class Chunk(NamedTuple):
    """A range of the topic that is counted as a whole."""

    number: int  # from 1
    first: dict[int, int]  # by partition, the first offset
    end: dict[int, int]  # by partition, the offset after the last
    done: bool = False
    # By partition, the largest of its records' times so far, at most their record timestamps.
    clocks_ms: dict[int, int] = {}  # noqa: RUF012

    def complete_until_ms(self, out_of_orderness_ms: int) -> int | None:
        """Until when the counts are complete, except for late events; None if it is not known.

        The partition with the earliest clock decides, of those that the chunk has records of.
        """
        read = [number for number, end in self.end.items() if end > self.first[number]]
        clocks = [self.clocks_ms[number] for number in read if number in self.clocks_ms]
        return min(clocks) - out_of_orderness_ms if clocks else None


class CountStore:
    """The stored counts. session: closed by its owner. Methods raise ServiceError."""

    def __init__(self, session: Session, settings: Settings) -> None:
        self._session, self._topic = session, settings.topics.events
        self._cassandra: CassandraSettings = settings.cassandra
        ttl_s = settings.cassandra.history_ttl_s
        key = "topic = ? AND span = ? AND scope = ? AND category = ? AND event_type = ?"
        self._select_counts = prepare(
            session,
            f"SELECT start, chunk, events, amount, user_hashes FROM trend WHERE {key}"
            " AND start IN ?",
        )
        self._insert_count = prepare(session, TREND.insert(ttl_s))
        self._insert_series = prepare(session, TREND_SERIES.insert(ttl_s))
        chunk = TREND_CHUNK.insert(ttl_s, time="", condition=" IF NOT EXISTS")
        self._insert_chunk = prepare(session, chunk)
        self._finish_chunk = prepare(
            session,
            f"UPDATE trend_chunk USING TTL {ttl_s} SET first = ?, end = ?, clocks = ?, done = true"
            " WHERE topic = ? AND number = ? IF EXISTS",
        )
        for statement in (self._insert_count, self._insert_series):
            statement.is_idempotent = True

    def last_chunk(self) -> Chunk | None:
        """Returns the chunk with the highest number."""
        return read_last_chunk(self._session, self._topic)

    def begin(self, chunk: Chunk) -> Chunk:
        """Stores the chunk, unless one with its number is stored; returns the stored one."""
        values = (self._topic, chunk.number, chunk.first, chunk.end, chunk.clocks_ms, False)
        execute(self._session, self._insert_chunk.bind(values))
        stored = self.last_chunk()
        assert stored is not None
        return stored

    def categories(self) -> list[str]:
        """Returns the categories that have series of their own."""
        names = {s.category for s in read_series(self._session, self._topic) if s.scope == CATEGORY}
        return sorted(names)

    def add(self, number: int, counts: Counts) -> None:
        """Adds the counts of a chunk to rows that do not contain it yet."""
        write_all(
            self._session,
            itertools.chain(self._series_writes(number, counts), self._writes(number, counts)),
        )

    def finish(self, chunk: Chunk) -> None:
        """Marks a chunk as done, with its clocks."""
        values = (chunk.first, chunk.end, chunk.clocks_ms, self._topic, chunk.number)
        execute(self._session, self._finish_chunk.bind(values))

    def _series_writes(self, number: int, counts: Counts) -> Iterator[BoundStatement]:
        for (span, series), new in counts.items():
            if span == "hour":
                last_ms = max(new)
                yield self._insert_series.bind(
                    (self._topic, *series, from_ms(last_ms), last_ms * 1_000 + number)
                )

    def _writes(self, number: int, counts: Counts) -> Iterator[BatchStatement]:
        """Yields batches of rows of one series: a batch has one partition."""
        for (span, series), new in counts.items():
            batch, size = BatchStatement(BatchType.UNLOGGED), 0
            for start_ms, count in self._totals(number, span, series, new):
                hashes = count.user_hashes.astype(">u8").tobytes()
                row = (
                    self._topic,
                    span,
                    *series,
                    from_ms(start_ms),
                    number,
                    count.events,
                    count.amount,
                    distinct_users(count.user_hashes, series.exact_users),
                    hashes,
                    start_ms * 1_000 + number,
                )
                if size and size + len(hashes) + _ROW_BYTES > MAX_BATCH_BYTES:
                    yield batch
                    batch, size = BatchStatement(BatchType.UNLOGGED), 0
                batch.add(self._insert_count.bind(row))
                size += len(hashes) + _ROW_BYTES
            if size:
                yield batch

    def _totals(
        self, number: int, span: str, series: Series, new: Mapping[int, Count]
    ) -> Iterator[tuple[int, Count]]:
        """Yields start and total of the rows that do not contain the chunk yet."""
        if number == 1:  # nothing is stored, except by this chunk
            yield from new.items()
            return
        starts = iter(new)
        while part := list(itertools.islice(starts, MAX_STARTS)):
            values = (self._topic, span, *series, [from_ms(start) for start in part])
            rows = {
                to_ms(row.start): row
                for row in read(self._session, self._select_counts.bind(values))
            }
            for start_ms in part:
                stored = None
                if row := rows.get(start_ms):
                    hashes = np.frombuffer(row.user_hashes or b"", ">u8").astype(np.uint64)
                    stored = row.chunk, Count(row.events, row.amount, hashes)
                count = total(stored, number, new[start_ms], series.exact_users)
                if count is not None:
                    yield start_ms, count


def read_last_chunk(session: Session, topic: str) -> Chunk | None:
    """The chunk with the highest number. Raises ServiceError."""
    query = (
        "SELECT number, first, end, clocks, done FROM trend_chunk WHERE topic = %s"
        " ORDER BY number DESC LIMIT 1"
    )
    row = read(session, query, (topic,)).one()
    if row is None:
        return None
    maps = (dict(each or {}) for each in (row.first, row.end, row.clocks))
    first, end, clocks_ms = maps
    return Chunk(row.number, first, end, bool(row.done), clocks_ms)


def read_series(session: Session, topic: str) -> list[Series]:
    """All series that have counts. Raises ServiceError."""
    query = prepare(session, "SELECT scope, category, event_type FROM trend_series WHERE topic = ?")
    return [Series(*row) for row in read_pages(session, query.bind((topic,)))]


def read_counts(
    session: Session, topic: str, span: str, series: Series, since_ms: int, until_ms: int
) -> list[StoredCount]:
    """The counts of hours or days that start from `since_ms` on, before `until_ms`; oldest first.

    span: "hour" or "day". Hours and days without events have no row. Raises ServiceError.
    """
    query = prepare(
        session,
        "SELECT start, events, amount, users FROM trend WHERE topic = ? AND span = ? AND scope = ?"
        " AND category = ? AND event_type = ? AND start >= ? AND start < ? ORDER BY start ASC",
    )
    values: Sequence[object] = (topic, span, *series, from_ms(since_ms), from_ms(until_ms))
    rows: Iterable = read_pages(session, query.bind(values))
    return [StoredCount(to_ms(row.start), row.events, row.amount, row.users) for row in rows]


SPANS_MS = {"hour": HOUR_MS, "day": DAY_MS}
ALL = "all"  # as scope: all categories together; as event type: all types together
CATEGORY = "category"
OTHER = "other"  # the scope of categories beyond MAX_CATEGORIES
EXACT_USERS, EXACT_USERS_OF_ALL = 512, 4_096


class Series(NamedTuple):
    """Whose counts they are."""

    scope: str  # ALL, CATEGORY or OTHER
    category: str  # "" unless the scope is CATEGORY; there, "" is the unknown category
    event_type: str  # ALL occurs only with the scope ALL

    @classmethod
    def of(cls, category: str | None, event_type: str | None) -> Series:
        """Of all categories and types; of a category without a type, its purchases."""
        if category is None:
            return cls(ALL, "", event_type or ALL)
        return cls(CATEGORY, category, event_type or "purchase")

    @property
    def exact_users(self) -> int:
        """Up to how many users the number of users is exact."""
        return EXACT_USERS if self.scope == CATEGORY else EXACT_USERS_OF_ALL


class Count(NamedTuple):
    """The counts of a series in one hour or day."""

    events: int
    amount: float  # of events of the series; of purchases, if it has all types
    user_hashes: np.ndarray  # (n,) uint64, ascending: the smallest hashes of users

    def plus(self, other: Count, exact_users: int) -> Count:
        hashes = np.concatenate([self.user_hashes, other.user_hashes])
        amount = self.amount + other.amount
        return Count(self.events + other.events, amount, smallest(hashes, exact_users))


# By span ("hour" or "day") and series: the start of the hour or day in ms, and its count.
Counts = dict[tuple[str, Series], dict[int, Count]]


def total(stored: tuple[int, Count] | None, chunk: int, new: Count, exact: int) -> Count | None:
    """Returns a row's count with a chunk; None if the row contains the chunk already.

    stored: the number of the last chunk in the row, and its count.
    """
    if stored is None:
        return new
    last_chunk, count = stored
    return None if last_chunk >= chunk else count.plus(new, exact)


def user_hash(user_id: str) -> int:
    """64 bits (BLAKE2b, RFC 7693)."""
    text = user_id.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(text, digest_size=8, person=b"liveprofile-trnd").digest()
    return int.from_bytes(digest, "big")


def smallest(hashes: np.ndarray, exact: int) -> np.ndarray:
    """(n,) the `exact` + 1 smallest distinct hashes: one more tells whether there are more."""
    return np.unique(hashes)[: exact + 1]


def distinct_users(hashes: np.ndarray, exact: int) -> int:
    """The number of users of whom these are the smallest hashes."""
    if len(hashes) <= exact:
        return len(hashes)
    return round((len(hashes) - 1) / ((float(hashes[-1]) + 1.0) / 2.0**64))
