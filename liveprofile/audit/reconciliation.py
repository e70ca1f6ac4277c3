"""Classifies input records: used, duplicate, late, corrected, rejected, erased, heartbeat or lost.

Pure functions over rows (liveprofile.audit.rows). They do not use the job's own counters. The
rules are in docs/data-contract.md, section 3.

Shapes: N input rows, R of them selected, K keys.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from liveprofile.audit.rows import EVENT, HEARTBEAT, event_keys, partitions


@dataclass(frozen=True)
class Reconciliation:
    """Counts of records. The eight after `in_topic` add up to it."""

    in_topic: int = 0
    heartbeats: int = 0
    used: int = 0
    duplicate: int = 0
    late: int = 0
    corrected: int = 0  # late, and used by a correction
    rejected: int = 0
    erased: int = 0  # no trace is left: the user was erased after the record's window had begun
    unaccounted: int = 0
    open_windows: int = 0  # unaccounted records of windows that have not closed yet
    used_twice: int = 0  # digests stored more than once
    unknown: int = 0  # stored digests without a record
    late_and_used: int = 0  # in the late topic and stored as used, without an earlier used copy
    expired: int = 0  # records that retention has removed from the topic
    archive: bool = False  # the state was built from an archive (`liveprofile events bootstrap`)
    of_range: bool = False  # the topic grows after the range, which may close its open windows

    @property
    def unexplained(self) -> int:
        """Stored digests without a record; 0 if expired records or an archive explain them."""
        return 0 if self.expired or self.archive else self.unknown

    @property
    def lost(self) -> int:
        """Unaccounted records that are an error."""
        return self.unaccounted - (self.open_windows if self.of_range else 0)

    @property
    def ok(self) -> bool:
        """Whether every record has exactly one class and no event is wrongly used."""
        return not (self.lost or self.used_twice or self.unexplained or self.late_and_used)


def reconcile(
    rows: np.ndarray, stored: np.ndarray, watermark_ms: int, first_window_ms: int, length_ms: int
) -> tuple[Counter[str], np.ndarray, np.ndarray]:
    """Counts the classes of the rows in the range.

    Also returns the unaccounted rows among them, and for each whether its window is still open.

    rows: (N,) INPUT_ROW. stored: STORED_ROW. Both hold all rows of each of their keys.
    watermark_ms: after the last record; NO_TIME if no window has closed.
    first_window_ms: all records of windows that start at this time or later have been read.
    length_ms: of a window.
    """
    # Rows before the range arrived before rows in it, in whatever partition.
    rows = rows[np.lexsort((rows["position"], rows["in_range"]))]
    in_range, is_rejected = rows["in_range"], rows["rejected"]
    is_late = rows["late"] & ~is_rejected
    is_event = (rows["kind"] == EVENT) & ~is_rejected
    is_claimed = (rows["kind"] == EVENT) & is_rejected & rows["claimed"]
    is_heartbeat = (rows["kind"] == HEARTBEAT) & ~is_rejected & ~is_late

    row_keys = event_keys(rows)
    stored = _without_superseded(stored)
    # `first` of the sorted proven rows is proven if any is.
    stored = stored[np.argsort(~stored["proven"], kind="stable")]
    stored_keys, first_stored, copies = np.unique(
        event_keys(stored), return_index=True, return_counts=True
    )
    # The job uses the first record of a user and event in order of offset.
    candidates = np.flatnonzero((is_event & ~is_late) | is_claimed)
    keys, first = np.unique(row_keys[candidates], return_index=True)
    corrected_keys = event_keys(stored)[stored["corrected"]]
    is_corrected = _is_corrected(
        row_keys, is_late & is_event, keys, candidates[first], corrected_keys
    )
    # Copies of a corrected event that came after it are duplicates.
    key_is_stored = np.isin(keys, stored_keys, assume_unique=True)
    key_is_stored &= ~np.isin(keys, row_keys[is_corrected])
    is_used = np.zeros(len(rows), bool)
    is_used[candidates[first[key_is_stored]]] = True
    is_rejected = is_rejected & ~is_used

    is_duplicate = np.zeros(len(rows), bool)
    remaining = np.flatnonzero(is_event & ~is_late & ~is_used)
    kept = np.flatnonzero(is_used | is_late | is_claimed)
    is_duplicate[remaining] = _has_earlier_copy(rows, remaining, kept)

    is_erased = is_event & rows["erased"] & ~(is_late | is_used | is_duplicate)
    is_lost = ~(is_rejected | is_late | is_heartbeat | is_used | is_duplicate | is_erased)
    is_open = is_lost & (rows["end_ms"] > watermark_ms + 1)  # never without a time
    # The fate of a copy with another time is that of the first.
    is_open[is_lost] |= _has_earlier_copy(rows, np.flatnonzero(is_lost), np.flatnonzero(is_open))
    is_late_event = is_late & is_event
    explained = np.isin(stored_keys, row_keys[is_used | is_late_event])
    is_unknown = ~explained & stored["proven"][first_stored]
    in_other_range = np.isin(stored_keys, row_keys[is_used & ~in_range])
    in_this_range = np.isin(stored_keys, row_keys[(is_used | is_late_event) & in_range])
    counted_here = (in_this_range & ~in_other_range) | is_unknown
    counts = {
        "in_topic": in_range,
        "heartbeats": is_heartbeat & in_range,
        "used": is_used & in_range,
        "duplicate": is_duplicate & in_range,
        "late": is_late & ~is_corrected & in_range,
        "corrected": is_corrected & in_range,
        "rejected": is_rejected & in_range,
        "erased": is_erased & in_range,
        "unaccounted": is_lost & in_range,
        "open_windows": is_open & in_range,
        "used_twice": (copies - 1)[counted_here],
        "unknown": is_unknown,
        "late_and_used": _is_late_and_used(
            row_keys, is_late_event & ~is_corrected, is_used, stored_keys
        )
        & in_range
        & (rows["end_ms"] >= first_window_ms + length_ms),
    }
    totals = Counter({name: int(values.sum()) for name, values in counts.items()})
    return totals, rows[is_lost & in_range], is_open[is_lost & in_range]


def _without_superseded(stored: np.ndarray) -> np.ndarray:
    """STORED_ROWs without those of an alias that a correction has stored for the person, too: the
    rows of the alias are deleted after that."""
    if not stored["alias"].any():
        return stored
    corrected = event_keys(stored)[stored["corrected"] & ~stored["alias"]]
    return stored[~(stored["alias"] & np.isin(event_keys(stored), corrected))]


def _has_earlier_copy(rows: np.ndarray, selected: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """(R,) bool: whether a kept record with the same event_id arrived before the selected row.

    In another partition offsets do not give the order of arrival: any kept copy there counts.
    """
    if not len(kept):
        return np.zeros(len(selected), bool)
    kept = kept[np.lexsort((rows["position"][kept], rows["key"][kept]))]
    events, first, copies = np.unique(rows["key"][kept], return_index=True, return_counts=True)
    at = np.minimum(np.searchsorted(events, rows["key"][selected]), len(events) - 1)
    same = events[at] == rows["key"][selected]
    first_row, last_row = rows[kept[first[at]]], rows[kept[first[at] + copies[at] - 1]]
    other_partition = partitions(last_row) != partitions(rows[selected])
    return same & ((first_row["position"] < rows["position"][selected]) | other_partition)


def _is_corrected(
    row_keys: np.ndarray,
    is_late_event: np.ndarray,
    keys: np.ndarray,
    first_on_time: np.ndarray,
    corrected_keys: np.ndarray,
) -> np.ndarray:
    """(N,) bool: whether each row is late and a correction has used it.

    keys: (K,) sorted, of records that are not late; first_on_time: (K,) the first row of each. A
    late row after such a record is a late copy, and its delta may have been corrected for others.
    """
    late = np.flatnonzero(is_late_event & np.isin(row_keys, corrected_keys))
    if len(keys):
        at = np.minimum(np.searchsorted(keys, row_keys[late]), len(keys) - 1)
        late = late[(keys[at] != row_keys[late]) | (first_on_time[at] > late)]
    found = np.zeros(len(row_keys), bool)
    found[late] = True
    return found


def _is_late_and_used(
    row_keys: np.ndarray, is_late_event: np.ndarray, is_used: np.ndarray, stored_keys: np.ndarray
) -> np.ndarray:
    """(N,) bool: whether each row is late and its event is stored as used.

    False for a record whose earlier copy was used: a copy that arrives after `state.dedup_ttl` is
    correctly late.
    """
    late = np.flatnonzero(is_late_event)
    late = late[np.isin(row_keys[late], stored_keys)]
    used = np.flatnonzero(is_used)
    keys, first = np.unique(row_keys[used], return_index=True)
    if len(keys):
        at = np.minimum(np.searchsorted(keys, row_keys[late]), len(keys) - 1)
        late = late[(keys[at] != row_keys[late]) | (used[first[at]] >= late)]
    found = np.zeros(len(row_keys), bool)
    found[late] = True
    return found
