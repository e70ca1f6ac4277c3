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
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np

from liveprofile.errors import ServiceError
from liveprofile.events.validation import AcceptedEvent, Heartbeat, accept
from liveprofile.kafka import offsets
from liveprofile.kafka.records import Record, read_topic
from liveprofile.kafka.topics import PartitionRange
from liveprofile.settings import Settings
from liveprofile.trends.counts import CountedCategories, Counts, EventCounter
from liveprofile.wire.payload import digest

MAX_CATEGORIES = 1_000  # with counts of their own; the others count as one

# A chunk's events are counted in memory: about 200 bytes each.
CHUNK_RECORDS = 1_000_000
BATCH_RECORDS = 10_000
# The first records of a range tell when it begins. More than one, because offsets of transaction
# markers hold no record.
TIME_SAMPLE_RECORDS = 100


class Chunk(NamedTuple):
    """A range of the topic that is counted as a whole."""

    number: int  # from 1
    first: dict[int, int]  # by partition, the first offset
    end: dict[int, int]  # by partition, the offset after the last
    done: bool = False
    # By partition, the largest of its records' times so far, at most their record timestamps.
    clocks_ms: dict[int, int] = {}  # noqa: RUF012


class ChunkReport(NamedTuple):
    """What became of a chunk's records."""

    records: int = 0
    events: int = 0  # counted
    duplicates: int = 0
    rejected: int = 0
    heartbeats: int = 0

    def plus(self, other: ChunkReport) -> ChunkReport:
        return ChunkReport(*map(sum, zip(self, other, strict=True)))


class UpdateReport(NamedTuple):
    chunks: int
    counts: ChunkReport  # of all chunks of this update
    behind: int  # records after the job's last checkpoint
    skipped: int  # records that had expired before they were counted (`skip_lost`)


class InputTopic(Protocol):
    """The input topic. Methods raise ServiceError."""

    def ranges(self) -> dict[int, PartitionRange]:
        """Returns the offsets that the topic still has, by partition."""

    def committed(self) -> dict[int, int]:
        """Returns the offsets of the job's last checkpoint."""

    def offsets_at(self, time_ms: int) -> dict[int, int]:
        """Returns the offset of each partition's first record from this record timestamp on."""

    def read(self, ranges: dict[int, PartitionRange]) -> Iterator[Record]:
        """Yields the records; those of a partition in order."""


class CountStore(Protocol):
    """The stored counts. Methods raise ServiceError."""

    def last_chunk(self) -> Chunk | None:
        """Returns the chunk with the highest number."""

    def begin(self, chunk: Chunk) -> Chunk:
        """Stores the chunk, unless one with its number is stored; returns the stored one."""

    def categories(self) -> Iterable[str]:
        """Returns the categories that have series of their own."""

    def add(self, number: int, counts: Counts) -> None:
        """Adds the counts of a chunk to rows that do not contain it yet."""

    def finish(self, chunk: Chunk, report: ChunkReport) -> None:
        """Marks a chunk as done, with its clocks."""


def update(
    topic: InputTopic,
    store: CountStore,
    settings: Settings,
    *,
    skip_lost: bool = False,
    chunk_records: int = CHUNK_RECORDS,
    progress: Callable[[int], None] = lambda _: None,
) -> UpdateReport:
    """Counts all records up to the job's last checkpoint that are not counted yet.

    skip_lost: go on where the topic begins now if records between have expired, or if the topic was
    created anew. progress: is called with numbers of records that have been counted.
    Raises ServiceError.
    """
    recent: RecentEvents | None = None
    total, chunks, skipped = ChunkReport(), 0, 0
    while True:
        present, committed = topic.ranges(), topic.committed()
        last = store.last_chunk()
        if last is not None and not last.done and not _is_retained(last, present):
            _require_skip(skip_lost, f"chunk {last.number} was not counted to its end")
            store.finish(last, ChunkReport())
            continue
        if last is None or last.done:
            starts, lost = _starts(last, present, skip_lost)
            planned = _plan(last, starts, present, committed, chunk_records)
            if planned is None:
                break
            skipped += lost
            if lost:
                recent = None
            last = store.begin(planned)
        if recent is None:
            recent = _recent_events(topic, last, present, settings)
        counter, report, clocks_ms = _count(topic, last, recent, settings, progress)
        categories = CountedCategories(store.categories(), MAX_CATEGORIES)
        store.add(last.number, counter.counts(categories))
        store.finish(last._replace(clocks_ms=last.clocks_ms | clocks_ms), report)
        total, chunks = total.plus(report), chunks + 1
    behind = sum(
        span.end - max(span.first, committed.get(number, 0)) for number, span in present.items()
    )
    return UpdateReport(chunks, total, behind, skipped)


def complete_until_ms(chunk: Chunk, out_of_orderness_ms: int) -> int | None:
    """Until when the counts are complete, except for late events; None if it is not known.

    The partition with the earliest clock decides, of those that the chunk has records of.
    """
    read = [number for number, end in chunk.end.items() if end > chunk.first[number]]
    clocks = [chunk.clocks_ms[number] for number in read if number in chunk.clocks_ms]
    return min(clocks) - out_of_orderness_ms if clocks else None


def _starts(
    last: Chunk | None, present: Mapping[int, PartitionRange], skip_lost: bool
) -> tuple[dict[int, int], int]:
    """Returns where to go on, and how many records have expired since the last chunk."""
    if last is None:
        return {number: span.first for number, span in present.items()}, 0
    starts, skipped = {}, 0
    for number, span in present.items():
        start = last.end.get(number, 0)
        if not span.first <= start <= span.end:
            _require_skip(
                skip_lost,
                f"partition {number} is counted up to offset {start} and now has offsets"
                f" {span.first} to {span.end}",
            )
            skipped += max(0, span.first - start)
            start = span.first
        starts[number] = start
    return starts, skipped


def _is_retained(chunk: Chunk, present: Mapping[int, PartitionRange]) -> bool:
    return all(
        number in present and present[number].first <= first and end <= present[number].end
        for (number, first), end in zip(chunk.first.items(), chunk.end.values(), strict=True)
        if end > first
    )


def _require_skip(skip_lost: bool, fault: str) -> None:
    if not skip_lost:
        raise ServiceError(
            f"{fault}: records have expired, or the topic was created anew. `liveprofile shop"
            " trends update --skip-lost` goes on with the first record that is left"
        )


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


def _recent_events(
    topic: InputTopic, chunk: Chunk, present: Mapping[int, PartitionRange], settings: Settings
) -> RecentEvents:
    """Reads the events of which the chunk may have copies."""
    ttl_ms = settings.state.dedup_ttl_ms
    recent = RecentEvents(ttl_ms)
    samples = {
        number: PartitionRange(first, min(chunk.end[number], first + TIME_SAMPLE_RECORDS))
        for number, first in chunk.first.items()
    }
    begin_ms = min((record.timestamp_ms for record in topic.read(samples)), default=None)
    if begin_ms is None:
        return recent
    offsets = topic.offsets_at(begin_ms - ttl_ms)
    ranges = {
        number: PartitionRange(max(present[number].first, min(offsets[number], first)), first)
        for number, first in chunk.first.items()
        if number in present and present[number].first < first
    }
    for batch in _batches(topic.read(ranges)):
        events = [
            (event, record.timestamp_ms)
            for record in batch
            if isinstance(
                event := accept(record.value, record.timestamp_ms, settings.limits), AcceptedEvent
            )
        ]
        _is_first(recent, [event for event, _ in events], [time_ms for _, time_ms in events])
    return recent


def _count(
    topic: InputTopic,
    chunk: Chunk,
    recent: RecentEvents,
    settings: Settings,
    progress: Callable[[int], None],
) -> tuple[EventCounter, ChunkReport, dict[int, int]]:
    """Returns counts, what became of the records, and the clocks of the partitions."""
    counter, clocks_ms = EventCounter(), dict(chunk.clocks_ms)
    records = rejected = heartbeats = duplicates = 0
    ranges = {
        number: PartitionRange(first, chunk.end[number]) for number, first in chunk.first.items()
    }
    for batch in _batches(topic.read(ranges)):
        events, sources = [], []
        for record in batch:
            event = accept(record.value, record.timestamp_ms, settings.limits)
            if event is None:
                rejected += 1
                continue
            clock_ms = min(event.time_ms, record.timestamp_ms)
            clocks_ms[record.partition] = max(clocks_ms.get(record.partition, clock_ms), clock_ms)
            if isinstance(event, Heartbeat):
                heartbeats += 1
            else:
                events.append(event)
                sources.append(record)
        first = _is_first(recent, events, [record.timestamp_ms for record in sources])
        for event, record, is_first in zip(events, sources, first.tolist(), strict=True):
            if is_first:
                counter.add(event, (record.offset, record.partition))
        duplicates += len(events) - int(first.sum())
        records += len(batch)
        progress(len(batch))
    report = ChunkReport(records, counter.events, duplicates, rejected, heartbeats)
    return counter, report, clocks_ms


def _is_first(recent: RecentEvents, events: list[AcceptedEvent], times_ms: list[int]) -> np.ndarray:
    digests = b"".join([digest(event.event_id) for event in events])
    return recent.add(np.frombuffer(digests, ">u8").astype(np.uint64), np.array(times_ms, np.int64))


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    while batch := list(itertools.islice(records, BATCH_RECORDS)):
        yield batch


class RecentEvents:
    """When each event was last seen: 16 bytes an event within `ttl_ms`.

    An event is a copy if the same event_id was seen within `ttl_ms` before it, in record time. The
    answer depends on the records of that time only, so it does not matter how far back the memory
    reaches beyond it.

    Digests are kept in sorted runs, each at most half as long as the one before it, so that n
    events need O(n log n) comparisons (a log-structured merge, O'Neil and others 1996).
    """

    def __init__(self, ttl_ms: int) -> None:
        self._ttl_ms = ttl_ms
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []  # digests, ascending; times

    def __len__(self) -> int:
        return sum(len(digests) for digests, _ in self._runs)

    def add(self, digests: np.ndarray, times_ms: np.ndarray) -> np.ndarray:
        """Returns (N,) whether each event is the first, and remembers all.

        digests: (N,) uint64 in order of arrival; times_ms: (N,) int64 record timestamps.
        """
        order = np.argsort(digests, kind="stable")
        ordered, times = digests[order], times_ms[order]
        before_ms = np.full(len(ordered), np.iinfo(np.int64).min // 2)
        before_ms[1:] = np.where(ordered[1:] == ordered[:-1], times[:-1], before_ms[1:])
        for known, known_ms in self._runs:
            place = np.minimum(np.searchsorted(known, ordered), len(known) - 1)
            seen_ms = np.where(known[place] == ordered, known_ms[place], before_ms)
            before_ms = np.maximum(before_ms, seen_ms)
        first = np.empty(len(ordered), np.bool_)
        first[order] = before_ms < times - self._ttl_ms
        if len(ordered):
            self._remember(ordered, times)
        return first

    def _remember(self, digests: np.ndarray, times_ms: np.ndarray) -> None:
        run = _latest(digests, times_ms)
        while self._runs and len(self._runs[-1][0]) < 2 * len(run[0]):
            other = self._runs.pop()
            run = _latest(*(np.concatenate(pair) for pair in zip(other, run, strict=True)))
            fresh = run[1] >= times_ms.max() - self._ttl_ms
            run = (run[0][fresh], run[1][fresh])
        if len(run[0]):
            self._runs.append(run)


def _latest(digests: np.ndarray, times_ms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct digests, ascending, each with its latest time."""
    order = np.lexsort((times_ms, digests))
    digests, times_ms = digests[order], times_ms[order]
    last = np.append(digests[1:] != digests[:-1], True)
    return digests[last], times_ms[last]


class KafkaInputTopic:
    """An InputTopic (liveprofile.trends.update)."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._topic = settings, settings.topics.events

    def ranges(self) -> dict[int, PartitionRange]:
        return offsets.partition_ranges(self._settings, self._topic)

    def committed(self) -> dict[int, int]:
        return offsets.committed_offsets(self._settings, self._topic)

    def offsets_at(self, time_ms: int) -> dict[int, int]:
        return offsets.offsets_at(self._settings, self._topic, time_ms)

    def read(self, ranges: dict[int, PartitionRange]) -> Iterator[Record]:
        return read_topic(self._settings, self._topic, ranges)
