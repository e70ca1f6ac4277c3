"""Where the input topic goes on from an archive of its events."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from liveprofile.audit.reconciliation import EVENT, InputLog, split_position
from liveprofile.kafka.topics import PartitionRange


def offsets_after_archive(
    live: InputLog, archive: InputLog, ranges: Mapping[int, PartitionRange]
) -> dict[int, int]:
    """The offset in each partition of the input topic from which on events are to be read.

    Up to there the archive has every event of the partition. It has the events of no partition
    whose offset is the first one of its range. Later events may be in the archive too.
    `live`: the records in `ranges` of the input topic.
    """
    is_event = live.kind == EVENT
    in_archive = np.isin(live.event, archive.event[archive.kind == EVENT])
    partition_N, offset_N = split_position(live.position)
    offsets = {}
    for partition, span in ranges.items():
        events = np.flatnonzero(is_event & (partition_N == partition))
        new = np.flatnonzero(~in_archive[events])
        known = events[: new[0]] if len(new) else events
        offsets[partition] = int(offset_N[known[-1]]) + 1 if len(known) else span.first
    return offsets
