"""The audit of a topic or of a range of it, in memory that does not grow with the records.

Rows of all records and stored events are written to tables on disk (liveprofile.disk_tables) and
classified one part of the event_ids after the other. All copies of an event are in one part.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from liveprofile.disk_tables import DiskTables
from liveprofile.identity.merges import IdentityTable
from liveprofile.kafka.records import Record
from liveprofile.kafka.topics import PartitionRange
from liveprofile.settings import Settings, WindowSettings
from liveprofile.storage.queries import WindowDigests
from services.event_audit.reconciliation import TRACED, Reconciliation, reconcile
from services.event_audit.rows import (
    BATCH_ROWS,
    EVENT,
    INPUT_ROW,
    NO_TIME,
    OFFSET_BITS,
    STORED_ROW,
    IsErased,
    input_rows,
    nobody_erased,
    partitions,
    position,
    split_position,
    stored_rows,
)

# The number of lost records that a report names.
MAX_EXAMPLES = 10
# A part takes about 100 MB while it is classified.
PART_ROWS = 1 << 19
KEY_BITS = 64
END_OF_TIME = 2**63 - 1
# SQL: the time up to which an input row may advance the watermark, or NO_TIME.
CLOCK = f"CASE WHEN rejected THEN {NO_TIME} ELSE least(time_ms, timestamp_ms) END"
OUTCOME = pa.schema({"position": pa.int64(), "outcome": pa.string()})


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

    Add the deltas before the end of the whole topic is known, so that each stored event has a
    record; but after the other rows of a range. Raises InputError if the disk is full.
    """

    def __init__(
        self,
        window: WindowSettings,
        first_window_ms: int | None = None,
        *,
        archive: bool = False,
        part_rows: int = PART_ROWS,
        is_erased: IsErased = nobody_erased,
        identities: IdentityTable | None = None,
    ) -> None:
        self._window, self._archive, self._part_rows = window, archive, part_rows
        self._is_erased, self._identities = is_erased, identities
        self._of_range = first_window_ms is not None
        self._first_window_ms = NO_TIME if first_window_ms is None else first_window_ms
        self._first_end_ms = self._first_window_ms + window.length_ms
        self._offsets: Mapping[int, PartitionRange] = {}
        self._tables = DiskTables()
        self._tables.add("input", np.empty(0, INPUT_ROW))
        self._tables.add("stored", np.empty(0, STORED_ROW))
        self._tables.add("outcomes", pa.RecordBatch.from_pylist([], OUTCOME))
        self._tables.query("CREATE TABLE lost (position BIGINT, time_ms BIGINT, is_open BOOLEAN)")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tables.close()

    def add_outcomes(self, outcomes: Iterable[tuple[int, int, str]]) -> None:
        """Adds partition and offset of input records in the rejected and the late topic.

        With `late`, `rejected`, or `claimed`: rejected after the event had claimed its event_id, so
        its copies are duplicates. A replay after a failure may have used such an event after all.
        """
        outcomes = iter(outcomes)
        while batch := list(itertools.islice(outcomes, BATCH_ROWS)):
            positions = [position(partition, offset) for partition, offset, _ in batch]
            columns = [pa.array(positions), pa.array([outcome for _, _, outcome in batch])]
            self._tables.add("outcomes", pa.record_batch(columns, OUTCOME))

    def add_records(self, records: Iterable[Record], offsets: Mapping[int, PartitionRange]) -> None:
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
        self._offsets = offsets
        for rows in batches:
            numbers, which = np.unique(partitions(rows), return_inverse=True)
            firsts = [position(each, offsets[each].first) for each in numbers.tolist()]
            rows["in_range"] = rows["position"] >= np.array(firsts)[which]
            self._tables.add("input", rows)

    @property
    def watermark_ms(self) -> int:
        """The watermark after all added records; NO_TIME if a partition holds it back."""
        found = self._tables.query(
            f"SELECT position >> {OFFSET_BITS}, max({CLOCK}) FROM ({TRACED}) GROUP BY 1"
        )
        clocks_ms = dict.fromkeys(self._offsets, NO_TIME) | dict(found)
        slowest_ms = min(clocks_ms.values(), default=NO_TIME)
        return slowest_ms - self._window.out_of_orderness_ms * (slowest_ms != NO_TIME)

    def window_span(self) -> tuple[int, int] | None:
        """First and last end, in ms, of the windows whose deltas the range needs; None: of none."""
        [(first_ms, last_ms)] = self._tables.query(
            f"""
            SELECT min(end_ms), max(end_ms) FROM ({TRACED})
            WHERE end_ms <> {NO_TIME} AND (
                kind = {EVENT} AND (NOT rejected OR claimed) AND NOT late
                    AND key IN (SELECT key FROM input WHERE in_range)
                OR late AND in_range AND end_ms >= {self._first_end_ms})"""
        )
        return None if first_ms is None else (first_ms, last_ms)

    def add_deltas(self, deltas: Iterable[WindowDigests]) -> None:
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
        watermark_ms, totals = self.watermark_ms, Counter[str]()
        for keys in self._parts():
            totals += reconcile(self._tables, keys, watermark_ms, self._first_end_ms)
        open_windows = self._tables.query(
            f"SELECT position >> {OFFSET_BITS}, min(position), count(*) FROM lost"
            " WHERE is_open GROUP BY 1"
        )
        next_offsets = {number: span.end for number, span in self._offsets.items()}
        next_offsets |= {number: split_position(first)[1] for number, first, _ in open_windows}
        examples = self._tables.query(
            "SELECT is_open, position, time_ms FROM lost"
            f" ORDER BY is_open, position LIMIT {MAX_EXAMPLES}"
        )
        from_first_offset = not (self._of_range or self._archive)
        reconciliation = Reconciliation(
            **totals,
            open_windows=sum(count for _, _, count in open_windows),
            expired=sum(span.first for span in self._offsets.values()) * from_first_offset,
            archive=self._archive,
            of_range=self._of_range,
        )
        return Report(reconciliation, [_example(*example) for example in examples], next_offsets)

    def _parts(self) -> Iterator[tuple[int, int]]:
        """Yields the first and last key of each part."""
        parts = 1 + max(map(self._tables.count, ("input", "stored"))) // self._part_rows
        for part in range(parts):
            yield (part << KEY_BITS) // parts, (part + 1 << KEY_BITS) // parts - 1


def _example(is_open: bool, place: int, time_ms: int) -> dict[str, Any]:
    partition, offset = split_position(place)
    return {
        "partition": partition,
        "offset": offset,
        "event_time_ms": None if time_ms == NO_TIME else time_ms,
        "open_window": is_open,
    }


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
