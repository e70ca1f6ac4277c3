"""A topic and a store of counts in memory. The store can be killed before any write."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from liveprofile.kafka.records import Record
from liveprofile.kafka.topics import PartitionRange
from liveprofile.settings import Settings, load
from liveprofile.trends.count_store import (
    CATEGORY,
    Chunk,
    Count,
    Counts,
    Series,
    total,
)
from liveprofile.trends.update import UpdateReport, update

SETTINGS = load()


class KilledError(Exception):
    """The process ends here."""


class MemoryTopic:
    """The input topic. The job's checkpoint is at the end unless `checkpoint` is set."""

    def __init__(self, partitions: int) -> None:
        self.partitions: list[list[Record]] = [[] for _ in range(partitions)]
        self.expired = [0] * partitions
        self.checkpoint: dict[int, int] | None = None

    def send(self, partition: int, value: bytes | None, timestamp_ms: int) -> None:
        records = self.partitions[partition]
        records.append(Record("events", partition, len(records), timestamp_ms, None, value, {}))

    def update(self, store: MemoryCountStore, **options: Any) -> UpdateReport:
        """Runs `update` on this topic."""
        functions = {
            name: getattr(self, name)
            for name in ("partition_ranges", "committed_offsets", "offsets_at", "read_topic")
        }
        with patch.multiple("liveprofile.trends.update", **functions):
            return update(store, SETTINGS, **options)

    def partition_ranges(self, settings: Settings, topic: str) -> dict[int, PartitionRange]:
        return {
            number: PartitionRange(self.expired[number], len(records))
            for number, records in enumerate(self.partitions)
        }

    def committed_offsets(self, settings: Settings, topic: str) -> dict[int, int]:
        if self.checkpoint is not None:
            return self.checkpoint
        return {number: len(records) for number, records in enumerate(self.partitions)}

    def offsets_at(self, settings: Settings, topic: str, time_ms: int) -> dict[int, int]:
        return {
            number: next((r.offset for r in records if r.timestamp_ms >= time_ms), len(records))
            for number, records in enumerate(self.partitions)
        }

    def read_topic(
        self, settings: Settings, topic: str, ranges: dict[int, PartitionRange]
    ) -> Iterator[Record]:
        for number, (first, end) in ranges.items():
            assert self.expired[number] <= first <= end <= len(self.partitions[number])
            yield from self.partitions[number][first:end]


class MemoryCountStore:
    """A CountStore."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, Series, int], tuple[int, Count]] = {}
        self.chunks: dict[int, Chunk] = {}
        self.writes_until_kill: int | None = None

    def last_chunk(self) -> Chunk | None:
        return self.chunks[max(self.chunks)] if self.chunks else None

    def begin(self, chunk: Chunk) -> Chunk:
        self._write()
        return self.chunks.setdefault(chunk.number, chunk)

    def categories(self) -> list[str]:
        return sorted({s.category for _, s, _ in self.rows if s.scope == CATEGORY})

    def add(self, number: int, counts: Counts) -> None:
        for (span, series), new in counts.items():
            for start_ms, count in new.items():
                key = (span, series, start_ms)
                row = total(self.rows.get(key), number, count, series.exact_users)
                if row is not None:
                    self._write()
                    self.rows[key] = (number, row)

    def finish(self, chunk: Chunk) -> None:
        self._write()
        self.chunks[chunk.number] = chunk._replace(done=True)

    def _write(self) -> None:
        if self.writes_until_kill is not None:
            if self.writes_until_kill == 0:
                raise KilledError
            self.writes_until_kill -= 1
