"""Where the input topic goes on from an archive of its events."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from liveprofile.kafka.records import Record
from liveprofile.kafka.topics import PartitionRange
from liveprofile.settings import WindowSettings
from services.event_audit.rows import (
    EVENT,
    NO_TIME,
    input_rows,
    partitions,
    split_position,
)


class ArchivedEvents(NamedTuple):
    """The events of an archive."""

    digests: np.ndarray  # (N,) uint64, of the event_ids; ascending
    latest_ms: int  # the largest time; NO_TIME without events


def read_archived_events(records: Iterable[Record], window: WindowSettings) -> ArchivedEvents:
    """Reads all records of an archive."""
    digests, latest_ms = [np.empty(0, np.uint64)], NO_TIME
    for rows in input_rows(records, window):
        digests.append(rows["key"][rows["kind"] == EVENT])
        latest_ms = max(latest_ms, int(np.minimum(rows["time_ms"], rows["timestamp_ms"]).max()))
    return ArchivedEvents(np.unique(np.concatenate(digests)), latest_ms)


def offsets_after_archive(
    live: Iterable[Record],
    archive: ArchivedEvents,
    ranges: Mapping[int, PartitionRange],
    window: WindowSettings,
) -> dict[int, int]:
    """The offset in each partition of the input topic from which on events are to be read.

    Up to there the archive has every event of the partition. It has the events of no partition
    whose offset is the first one of its range. Later events may be in the archive too.
    `live`: the records in `ranges` of the input topic, those of each partition in order.
    """
    offsets = {partition: span.first for partition, span in ranges.items()}
    goes_on: set[int] = set()  # partitions with an event that the archive lacks
    for rows in input_rows(live, window):
        events = rows[rows["kind"] == EVENT]
        for partition in set(np.unique(partitions(events)).tolist()) - goes_on:
            of_partition = events[partitions(events) == partition]
            known = _contains(archive.digests, of_partition["key"])
            if not known.all():
                goes_on.add(partition)
                known = known[: int(known.argmin())]
            if len(known):
                _, offset = split_position(int(of_partition["position"][len(known) - 1]))
                offsets[partition] = offset + 1
    return offsets


def _contains(ascending: np.ndarray, values: np.ndarray) -> np.ndarray:
    if not len(ascending):
        return np.zeros(len(values), bool)
    at = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return ascending[at] == values
