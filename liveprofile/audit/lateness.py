"""Finds lost records that were late by the lateness rules (docs/data-contract.md, section 3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from liveprofile.audit.rows import NO_TIME, clocks_ms, partitions
from liveprofile.settings import WindowSettings


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
