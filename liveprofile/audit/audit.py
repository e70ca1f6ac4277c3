"""The audit of a topic or of a range of it, in memory that does not grow with the records.

Rows of all records and stored events are written to disk and classified one part of the event_ids
after the other. All copies of an event are in one part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from liveprofile.audit.reconciliation import Reconciliation, reconcile
from liveprofile.audit.rows import (
    EVENT,
    INPUT_ROW,
    NO_TIME,
    STORED_ROW,
    InputRecord,
    IsErased,
    StoredWindow,
    clocks_ms,
    input_rows,
    nobody_erased,
    partitions,
    position,
    position_rows,
    split_position,
    stored_rows,
)
from liveprofile.disk_tables import DiskTables
from liveprofile.identity.book import IdentityBook
from liveprofile.kafka.topics import PartitionRange
from liveprofile.settings import Settings, WindowSettings

# The number of lost records that a report names.
MAX_EXAMPLES = 10
# 29 MB of input rows. A part is sorted and compared with several copies of it in memory.
PART_ROWS = 1 << 19
KEY_BITS = 64
END_OF_TIME = 2**63 - 1


@dataclass(frozen=True)
class Report:
    """The result of an audit."""

    counts: Reconciliation
    examples: list[dict[str, Any]]  # the first MAX_EXAMPLES lost records, closed windows first
    # Where the next audit must start: the first record of each partition whose window is open, or
    # the end of the range.
    next_offsets: dict[int, int]


class Audit:
    """Collects records and stored deltas, then classifies the records; a context manager.

    first_window_ms: the audit is of a range, and all records that can belong to windows that start
    at this time or later are added. None: the audit is of the whole topic.

    archive: the job's state was built from an archive, whose events have no record in the topic.
    The offsets begin where the job began to read the topic.

    is_erased: whether a user's window that begins at a time was erased. identities: the merges that
    the job follows; None: none.

    Add the rejected and the late topic before the input topic. Add the deltas before the end of the
    whole topic is known, so that each stored event has a record; but after the records of a range.
    Raises InputError if the disk is full.
    """

    def __init__(
        self,
        window: WindowSettings,
        first_window_ms: int | None = None,
        *,
        archive: bool = False,
        part_rows: int = PART_ROWS,
        is_erased: IsErased = nobody_erased,
        identities: IdentityBook | None = None,
    ) -> None:
        self._window, self._archive, self._part_rows = window, archive, part_rows
        self._is_erased, self._identities = is_erased, identities
        self._of_range = first_window_ms is not None
        self._first_window_ms = NO_TIME if first_window_ms is None else first_window_ms
        self._offsets: Mapping[int, PartitionRange] = {}
        self._clocks_ms: dict[int, int] = {}
        self._tables = DiskTables()

    def __enter__(self) -> Audit:
        return self

    def __exit__(self, *_: object) -> None:
        self._tables.__exit__()

    def add_rejected(self, sources: Iterable[tuple[int, int]], *, claimed: bool = False) -> None:
        """Adds partition and offset of input records that the rejected topic has.

        claimed: they were rejected after they had claimed their event_id, so their copies are
        duplicates. A replay after a failure may have used such an event after all.
        """
        for rows in position_rows(sources):
            self._tables.add("rejected", rows)
            if claimed:
                self._tables.add("claimed", rows)

    def add_late(self, sources: Iterable[tuple[int, int]]) -> None:
        """Adds partition and offset of input records that the late topic has."""
        for rows in position_rows(sources):
            self._tables.add("late", rows)

    def add_records(
        self, records: Iterable[InputRecord], offsets: Mapping[int, PartitionRange]
    ) -> None:
        """Adds the records of the input topic, in any order.

        offsets: of the records to classify, for every partition of the topic; may be empty. Other
        records must be from before them and count as earlier copies only.
        """
        rows = input_rows(records, self._window, self._is_erased, self._identities)
        self.add_rows(rows, offsets)

    def add_rows(
        self, batches: Iterable[np.ndarray], offsets: Mapping[int, PartitionRange]
    ) -> None:
        """Adds arrays of INPUT_ROW, as `add_records` makes them of records."""
        self._offsets, self._clocks_ms = offsets, dict.fromkeys(offsets, NO_TIME)
        for rows in batches:
            for outcome in ("rejected", "claimed", "late"):
                rows[outcome] = self._tables.contains(outcome, "position", rows["position"])
            numbers, clocks = partitions(rows), clocks_ms(rows)
            for number in np.unique(numbers).tolist():
                of_partition = numbers == number
                first = position(number, offsets[number].first)
                rows["in_range"] |= of_partition & (rows["position"] >= first)
                clock_ms = int(clocks[of_partition].max())
                self._clocks_ms[number] = max(self._clocks_ms[number], clock_ms)
            self._tables.add("input", rows)

    @property
    def watermark_ms(self) -> int:
        """The watermark after all added records; NO_TIME if a partition holds it back."""
        clocks = self._clocks_ms.values()
        if self._window.idle_timeout_ms:
            clocks = [clock_ms for clock_ms in clocks if clock_ms != NO_TIME]
        slowest_ms = min(clocks, default=NO_TIME)
        return (
            slowest_ms if slowest_ms == NO_TIME else slowest_ms - self._window.out_of_orderness_ms
        )

    def window_span(self) -> tuple[int, int] | None:
        """First and last end, in ms, of the windows whose deltas the range needs; None: of none."""
        spans, first_end_ms = [], self._first_window_ms + self._window.length_ms
        for rows in self._parts("input", INPUT_ROW):
            may_be_used = ~rows["rejected"] | rows["claimed"]
            on_time = (rows["kind"] == EVENT) & may_be_used & ~rows["late"]
            has_copy_in_range = np.isin(rows["key"], rows["key"][rows["in_range"]])
            late = rows["late"] & rows["in_range"] & (rows["end_ms"] >= first_end_ms)
            needed = (on_time & has_copy_in_range) | late
            ends = rows["end_ms"][needed & (rows["end_ms"] != NO_TIME)]
            if len(ends):
                spans.append((int(ends.min()), int(ends.max())))
        if not spans:
            return None
        firsts, lasts = zip(*spans, strict=True)
        return min(firsts), max(lasts)

    def add_deltas(self, deltas: Iterable[StoredWindow]) -> None:
        """Adds stored deltas. Raises ValueError if their digests are not 8 bytes each."""
        watermark_ms = self.watermark_ms if self._of_range else END_OF_TIME
        first_ms = self._first_window_ms
        for rows in stored_rows(deltas, first_ms, watermark_ms, self._identities):
            self.add_stored_rows(rows)

    def add_stored_rows(self, rows: np.ndarray) -> None:
        """Adds STORED_ROWs, as `add_deltas` makes them of deltas."""
        self._tables.add("stored", rows)

    def report(self) -> Report:
        """Classifies the records of the range. Call it once, when everything has been added."""
        watermark_ms, totals = self.watermark_ms, Counter()
        examples: list[tuple[bool, int, int]] = []
        next_offsets = {number: span.end for number, span in self._offsets.items()}
        parts = zip(self._parts("input", INPUT_ROW), self._parts("stored", STORED_ROW), strict=True)
        for rows, stored in parts:
            counts, lost, is_open = reconcile(
                rows, stored, watermark_ms, self._first_window_ms, self._window.length_ms
            )
            totals.update(counts)
            self._tables.add("lost", lost)
            first = np.lexsort((lost["position"], is_open))[:MAX_EXAMPLES]
            named = (is_open[first], lost["position"][first], lost["time_ms"][first])
            examples += zip(*(values.tolist() for values in named), strict=True)
            examples = sorted(examples)[:MAX_EXAMPLES]
            open_positions, numbers = lost["position"][is_open], partitions(lost[is_open])
            for number in np.unique(numbers).tolist():
                _, offset = split_position(int(open_positions[numbers == number].min()))
                next_offsets[number] = min(next_offsets[number], offset)
        from_first_offset = not (self._of_range or self._archive)
        reconciliation = Reconciliation(
            **totals,
            expired=sum(span.first for span in self._offsets.values()) * from_first_offset,
            archive=self._archive,
            of_range=self._of_range,
        )
        return Report(reconciliation, [_example(*example) for example in examples], next_offsets)

    def lateness_ms(self) -> Iterator[dict[tuple[int, int], int]]:
        """Yields the lateness of lost records that were late, by partition and offset, in parts.

        Call it after `report`.
        """
        for batch in self._tables.read("lost"):
            lost = _as_rows([batch], INPUT_ROW)
            late = expected_late_records(lost, self._parts("input", INPUT_ROW), self._window)
            yield {split_position(place): late_ms for place, late_ms in late}

    def _parts(self, table: str, dtype: np.dtype) -> Iterator[np.ndarray]:
        """Yields the rows of a table in parts; those of two tables have the same ranges of keys."""
        parts = 1 + max(map(self._tables.count, ("input", "stored"))) // self._part_rows
        for part in range(parts):
            first, end = (part << KEY_BITS) // parts, (part + 1 << KEY_BITS) // parts
            batches = self._tables.read(table, "WHERE key BETWEEN ? AND ?", first, end - 1)
            yield _as_rows(batches, dtype)


def _as_rows(batches: Iterable[pa.RecordBatch], dtype: np.dtype) -> np.ndarray:
    arrays = [np.empty(0, dtype)]
    for batch in batches:
        arrays.append(np.empty(batch.num_rows, dtype))
        for name in dtype.names or ():
            arrays[-1][name] = batch[name].to_numpy(zero_copy_only=False)
    return np.concatenate(arrays)


def _example(is_open: bool, place: int, time_ms: int) -> dict[str, Any]:
    partition, offset = split_position(place)
    return {
        "partition": partition,
        "offset": offset,
        "event_time_ms": None if time_ms == NO_TIME else time_ms,
        "open_window": is_open,
    }


def expected_late_records(
    lost: np.ndarray, parts: Iterable[np.ndarray], window: WindowSettings
) -> Iterator[tuple[int, int]]:
    """Yields (position, lateness_ms) of lost records whose window had closed when they arrived.

    lost: (L,) INPUT_ROW. parts: arrays of INPUT_ROW, together all records of the topic or range.
    The memory is 8 L bytes for each partition.

    The records' Kafka timestamps align the partitions. The watermark is the minimum over the
    partitions that hold records, so no record is late before each of them has a record.
    """
    lost = lost[np.lexsort((lost["position"], lost["timestamp_ms"]))]
    # Per partition: the largest clock of its records between one lost record and the next.
    steps: dict[int, np.ndarray] = {}
    for rows in parts:
        numbers, next_lost = partitions(rows), _next_lost(rows, lost)
        clocks = clocks_ms(rows)
        for number in np.unique(numbers).tolist():
            step = steps.setdefault(number, np.full(len(lost) + 1, NO_TIME))
            of_partition = numbers == number
            np.maximum.at(step, next_lost[of_partition], clocks[of_partition])
    max_time = np.full(len(lost), np.iinfo(np.int64).max)
    for step in steps.values():
        np.minimum(max_time, np.maximum.accumulate(step)[:-1], out=max_time)
    timed = (max_time != NO_TIME) & (lost["time_ms"] != NO_TIME)
    lost, watermark_ms = lost[timed], max_time[timed] - window.out_of_orderness_ms
    late = lost["end_ms"] - 1 <= watermark_ms
    lateness_ms = watermark_ms - lost["time_ms"]
    yield from zip(lost["position"][late].tolist(), lateness_ms[late].tolist(), strict=True)


def _next_lost(rows: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """(N,) int: index of the first lost record that arrived with or after each row, else L."""
    order = np.lexsort(
        (
            np.concatenate([rows["position"], lost["position"]]),
            np.concatenate([rows["timestamp_ms"], lost["timestamp_ms"]]),
        )
    )
    is_lost = order >= len(rows)
    next_lost = np.empty(len(rows), np.int64)
    next_lost[order[~is_lost]] = np.cumsum(is_lost)[~is_lost]
    return next_lost


class LookBack(NamedTuple):
    """Times from which an audit of a range reads. The first two are record timestamps."""

    input_ms: int
    outputs_ms: int  # rejected and late topic
    first_window_ms: int  # all records of windows that start at this time or later are read


def look_back(begin_ms: int, settings: Settings) -> LookBack:
    """Returns where to read for a range whose records have timestamps of `begin_ms` or later."""
    window, skew_ms = settings.window, settings.limits.max_clock_skew_ms
    # An earlier copy, or a record of the same window, is at most this much older.
    apart_ms = max(settings.state.dedup_ttl_ms, window.length_ms + window.out_of_orderness_ms)
    # The first record of a window may be max_clock_skew_ms ahead of its timestamp.
    input_ms = begin_ms - apart_ms - skew_ms
    # The brokers' clocks may differ: they stamp the topics' records.
    return LookBack(input_ms, input_ms - skew_ms, begin_ms - apart_ms)
