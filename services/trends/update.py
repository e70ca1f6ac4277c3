"""Counts the records of the input topic up to the job's last checkpoint, each exactly once.

The records are counted in chunks. A chunk is a range of offsets that is stored before its records
are counted, so whoever counts it, and however often, gets the same counts:

1. Store the chunk's range under the next number, unless another process has.
2. Count its records. A copy of an event within `state.dedup_ttl_ms` before it is left out.
3. Add its counts to the stored ones. Each row holds the number of its last chunk in the same write,
   so a row that already contains this chunk is left as it is.
4. Mark the chunk as done.

A process that is killed leaves a chunk that is not done. The next one counts it again.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from liveprofile.attributes.event_types import event_types
from liveprofile.events.validation import Heartbeat, accept
from liveprofile.kafka.offsets import committed_offsets, offsets_at, partition_ranges
from liveprofile.kafka.records import read_topic
from liveprofile.kafka.topics import PartitionRange
from liveprofile.settings import Settings
from liveprofile.wire.window_events import digest
from services.trends.count_store import (
    ALL,
    CATEGORY,
    OTHER,
    SPANS_MS,
    Chunk,
    Count,
    Counts,
    CountStore,
    Series,
    smallest,
    user_hash,
)

MAX_CATEGORIES = 1_000  # with counts of their own; the others count as one
CHUNK_RECORDS = 500_000  # counted in memory, about 500 bytes each
BATCH_RECORDS = 10_000


@dataclass
class UpdateReport:
    """What an update has done, in numbers of records and chunks."""

    records: int = 0
    events: int = 0  # counted
    duplicates: int = 0
    rejected: int = 0
    heartbeats: int = 0
    chunks: int = 0
    behind: int = 0  # records after the job's last checkpoint
    lost: int = 0  # records that went before they were counted, at most


def update(
    store: CountStore,
    settings: Settings,
    *,
    chunk_records: int = CHUNK_RECORDS,
    progress: Callable[[int], None] = lambda _: None,
) -> UpdateReport:
    """Counts all records up to the job's last checkpoint that are not counted yet.

    Goes on with the first record that is left if records have expired uncounted, or if the topic
    was created anew. A chunk that a killed run began and whose records have expired in part stays
    as far as it was counted. progress: is called with numbers of records that have been counted.
    Raises ServiceError.
    """
    recent: RecentEvents | None = None
    topic, report = settings.topics.events, UpdateReport()
    while True:
        present, committed = partition_ranges(settings, topic), committed_offsets(settings, topic)
        last = store.last_chunk()
        if last is not None and not last.done and _has_expired(_ranges(last), present):
            report.lost += sum(end - first for first, end in _ranges(last).values())
            store.finish(last)
            continue
        if last is None or last.done:
            starts, lost = _starts(last, present)
            planned = _plan(last, starts, present, committed, chunk_records)
            if planned is None:
                break
            report.lost += lost
            if lost:
                recent = None
            last = store.begin(planned)
        if recent is None:
            recent = _recent_events(last, present, settings)
        read = _read(_ranges(last), settings, progress)
        first = read.events[recent.add(read.events)]
        store.add(last.number, count_events(first, store.categories(), MAX_CATEGORIES))
        clocks_ms = {
            number: max(clock_ms, last.clocks_ms.get(number, clock_ms))
            for number, clock_ms in read.clocks_ms.items()
        }
        store.finish(last._replace(clocks_ms=last.clocks_ms | clocks_ms))
        report.records += read.records
        report.events += len(first)
        report.duplicates += len(read.events) - len(first)
        report.rejected += read.rejected
        report.heartbeats += read.heartbeats
        report.chunks += 1
    report.behind = sum(
        span.end - max(span.first, committed.get(number, 0)) for number, span in present.items()
    )
    return report


def _has_expired(
    ranges: Mapping[int, PartitionRange], present: Mapping[int, PartitionRange]
) -> bool:
    """Whether the topic lacks a record of the ranges."""
    for number, (first, end) in ranges.items():
        left = present.get(number, PartitionRange(0, 0))
        if first < end and not left.first <= first <= end <= left.end:
            return True
    return False


def _starts(
    last: Chunk | None, present: Mapping[int, PartitionRange]
) -> tuple[dict[int, int], int]:
    """Returns where to go on, and how many records have gone uncounted since the last chunk.

    A topic that ends before the last chunk was created anew, or has lost its end.
    """
    starts, lost = {}, 0
    for number, span in present.items():
        start = span.first if last is None else last.end.get(number, 0)
        lost += max(0, span.first - start, start - span.end)
        starts[number] = start if span.first <= start <= span.end else span.first
    return starts, lost


def _plan(
    last: Chunk | None,
    starts: Mapping[int, int],
    present: Mapping[int, PartitionRange],
    committed: Mapping[int, int],
    chunk_records: int,
) -> Chunk | None:
    """Returns the next chunk; None if the job has no checkpoint after the last one."""
    most = max(1, chunk_records // max(1, len(present)))
    ends = {
        number: max(start, min(start + most, committed.get(number, 0), present[number].end))
        for number, start in starts.items()
    }
    if ends == dict(starts):
        return None
    number = 1 if last is None else last.number + 1
    return Chunk(number, dict(starts), ends, clocks_ms={} if last is None else last.clocks_ms)


def _ranges(chunk: Chunk) -> dict[int, PartitionRange]:
    return {n: PartitionRange(first, chunk.end[n]) for n, first in chunk.first.items()}


def _recent_events(
    chunk: Chunk, present: Mapping[int, PartitionRange], settings: Settings
) -> RecentEvents:
    """Reads the events of which the chunk may have copies."""
    ttl_ms = settings.state.dedup_ttl_ms
    recent = RecentEvents(ttl_ms)
    samples = {number: span.beginning() for number, span in _ranges(chunk).items()}
    records = read_topic(settings, settings.topics.events, samples)
    begin_ms = min((record.timestamp_ms for record in records), default=None)
    if begin_ms is None:
        return recent
    offsets = offsets_at(settings, settings.topics.events, begin_ms - ttl_ms)
    ranges = {
        number: PartitionRange(max(present[number].first, min(offsets[number], first)), first)
        for number, first in chunk.first.items()
        if number in present and present[number].first < first
    }
    recent.add(_read(ranges, settings).events)
    return recent


class _ReadRecords(NamedTuple):
    events: pd.DataFrame  # rows of CountedEvent, in order of arrival
    records: int
    rejected: int
    heartbeats: int
    clocks_ms: dict[int, int]  # by partition


def _read(
    ranges: dict[int, PartitionRange],
    settings: Settings,
    progress: Callable[[int], None] = lambda _: None,
) -> _ReadRecords:
    rows: list[CountedEvent] = []
    types = event_types(settings).by_name
    records = rejected = heartbeats = 0
    clocks_ms: dict[int, int] = {}
    remaining = read_topic(settings, settings.topics.events, ranges)
    while batch := list(itertools.islice(remaining, BATCH_RECORDS)):
        for record in batch:
            event = accept(record.value, record.timestamp_ms, settings.limits, types)
            if event is None:
                rejected += 1
                continue
            clock_ms = min(event.time_ms, record.timestamp_ms)
            clocks_ms[record.partition] = max(clocks_ms.get(record.partition, clock_ms), clock_ms)
            if isinstance(event, Heartbeat):
                heartbeats += 1
                continue
            rows.append(
                CountedEvent(
                    int.from_bytes(digest(event.event_id), "big"),
                    record.timestamp_ms,
                    record.offset,
                    record.partition,
                    event.category,
                    event.event_type,
                    event.time_ms,
                    event.amount,
                    user_hash(event.user_id),
                )
            )
        records += len(batch)
        progress(len(batch))
    hashes = {"digest": np.uint64, "user_hash": np.uint64}
    events = pd.DataFrame(rows, columns=list(CountedEvent._fields)).astype(hashes)
    return _ReadRecords(events, records, rejected, heartbeats, clocks_ms)


class CountedEvent(NamedTuple):
    """A row of the events of `count_events`."""

    digest: int  # of the event_id
    record_ms: int  # timestamp of the record
    offset: int
    partition: int
    category: str
    event_type: str
    time_ms: int
    amount: float
    user_hash: int


def count_events(events: pd.DataFrame, known: Iterable[str], most: int = MAX_CATEGORIES) -> Counts:
    """The counts of all series that events belong to, whatever their order.

    events: rows of CountedEvent. known: categories that have series of their own; at most `most`
    get them, the first that occur, because clients choose the names of categories freely.
    """
    counted = set(known)
    for category in events.sort_values(["offset", "partition"])["category"].unique():
        if len(counted) < most:
            counted.add(category)
    is_own, is_purchase = events["category"].isin(counted), events["event_type"] == "purchase"
    rows = pd.concat(
        [
            events.assign(
                scope=np.where(is_own, CATEGORY, OTHER),
                category=events["category"].where(is_own, ""),
            ),
            events.assign(scope=ALL, category=""),
            events.assign(
                scope=ALL,
                category="",
                event_type=ALL,
                amount=events["amount"].where(is_purchase, 0.0),
            ),
        ]
    )
    amounts, users = rows["amount"].to_numpy(), rows["user_hash"].to_numpy(np.uint64)
    found: Counts = defaultdict(dict)
    for span, span_ms in SPANS_MS.items():
        keys = [rows[name].to_numpy() for name in Series._fields]
        start_ms = rows["time_ms"].to_numpy(np.int64) // span_ms * span_ms
        for (*names, start), places in rows.groupby([*keys, start_ms]).indices.items():
            series = Series(*names)
            found[span, series][start] = Count(
                len(places),
                math.fsum(amounts[places]),  # the sum does not depend on the order of arrival
                smallest(users[places], series.exact_users),
            )
    return found


class RecentEvents:
    """When events were last seen: 16 bytes for each within `ttl_ms`.

    An event is a copy if the same event_id was seen within `ttl_ms` before it, in record time. The
    answer depends on the records of that time only, so it does not matter how far back the memory
    reaches beyond it.
    """

    def __init__(self, ttl_ms: int) -> None:
        self._ttl_ms = ttl_ms
        self._seen = pd.DataFrame(
            {"digest": np.array([], np.uint64), "record_ms": np.array([], np.int64)}
        )

    def add(self, events: pd.DataFrame) -> np.ndarray:
        """Returns (N,) whether each event is the first, and remembers all.

        events: digest and record_ms, in order of arrival.
        """
        if events.empty:
            return np.zeros(0, bool)
        new = events[["digest", "record_ms"]]
        known = self._seen[self._seen["digest"].isin(new["digest"])]
        both = pd.concat([known, new], ignore_index=True)
        latest_ms = both.groupby("digest")["record_ms"].cummax()
        before_ms = latest_ms.groupby(both["digest"]).shift()[len(known) :]
        is_copy = before_ms.to_numpy() >= new["record_ms"].to_numpy() - self._ttl_ms
        seen = pd.concat([self._seen, new], ignore_index=True)
        self._seen = seen[seen["record_ms"] >= new["record_ms"].max() - self._ttl_ms]
        return ~is_copy
