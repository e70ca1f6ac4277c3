"""The audit of late records: late, corrected, used, or copies of others."""

from __future__ import annotations

import numpy as np

from liveprofile.audit.lateness import expected_late_records
from liveprofile.audit.rows import input_rows, position
from liveprofile.settings import WindowSettings
from tests.reference.windows import window_end_ms
from tests.unit.liveprofile.audit.simulated_job import Delta
from tests.unit.liveprofile.audit.written_topic import (
    START_MS,
    WINDOW,
    Topic,
    reconciled,
    stored,
)


def late_by(topic: Topic, window: WindowSettings = WINDOW, rejected=()) -> dict[int, int]:
    """Lateness by position of all records, as if each was lost."""
    (rows,) = input_rows(topic.records, window)
    rows["rejected"] = np.isin(rows["position"], [position(*one) for one in rejected])
    return dict(expected_late_records(rows, [rows], window))


def test_copy_after_a_late_event_is_a_duplicate():
    topic = Topic()
    topic.add("a")
    topic.add("a")
    found = reconciled(topic, late=[(0, 0)])
    assert found.ok
    assert (found.late, found.duplicate) == (1, 1)


def test_copy_before_a_late_event_is_lost():
    topic = Topic()
    topic.add("a")
    topic.add("a")
    found = reconciled(topic, late=[(0, 1)])
    assert found.unaccounted == 1


def test_copies_in_two_partitions_count_once_in_any_order():
    topic = Topic()
    topic.add("a", partition=0)
    topic.add("a", partition=1)
    found = reconciled(topic, late=[(1, 0)])
    assert found.ok
    assert (found.late, found.duplicate) == (1, 1)


def test_late_event_that_is_stored_as_used_is_counted():
    topic = Topic()
    topic.add("a")
    found = reconciled(topic, stored("a"), late=[(0, 0)])
    assert (found.late_and_used, found.unknown, found.ok) == (1, 0, False)


def test_late_copy_of_a_used_event_is_accepted():
    topic = Topic()
    topic.add("a")
    topic.add("a")
    found = reconciled(topic, stored("a"), late=[(0, 1)])
    assert found.ok
    assert (found.used, found.late) == (1, 1)


def corrected(*event_ids: str) -> Delta:
    return stored(*event_ids)._replace(revision=1)


def test_late_event_of_a_corrected_delta_is_corrected():
    topic = Topic()
    for event_id in ("a", "b", "b"):
        topic.add(event_id)
    found = reconciled(topic, corrected("a", "b"), late=[(0, 1)])
    assert found.ok
    assert (found.used, found.late, found.corrected, found.duplicate) == (1, 0, 1, 1)


def test_late_copy_of_an_event_in_a_corrected_delta_is_late():
    topic = Topic()
    topic.add("a")
    topic.add("a")
    found = reconciled(topic, corrected("a"), late=[(0, 1)])
    assert found.ok
    assert (found.used, found.late, found.corrected) == (1, 1, 0)


def test_event_that_a_correction_has_lost_is_unaccounted():
    topic = Topic()
    topic.add("a")
    topic.add("b")
    found = reconciled(topic, corrected("b"), late=[(0, 1)])
    assert (found.corrected, found.unaccounted, found.ok) == (1, 1, False)


def test_expected_late_records_use_the_slowest_partition():
    topic = Topic()
    topic.add("a", 100_000, partition=0)
    topic.add("b", 0, partition=0)  # partition 1 has no record yet: not late
    topic.add("c", 61_500, partition=1)
    topic.add("d", 60_000, partition=0)  # behind the watermark, but its window is open
    topic.add("e", 59_999, partition=0)
    assert late_by(topic) == {position(0, 3): 501}


def test_rejected_record_does_not_advance_the_watermark():
    topic = Topic()
    topic.add("a", 100_000)
    topic.add("b", 0)
    assert late_by(topic) == {position(0, 1): 99_000}
    assert not late_by(topic, rejected=[(0, 0)])


def test_staggered_window_closes_at_its_own_end():
    window = WindowSettings(length_ms=60_000, out_of_orderness_ms=1_000, stagger_ms=10_000)
    ends = {user: window_end_ms(user, START_MS, window) for user in map(str, range(20))}
    topic = Topic()
    reached_ms = START_MS + 30_000
    topic.add("first", 31_000)
    for user in ends:
        topic.add(f"of {user}", 0, user)
    closed = [number for number, end in enumerate(ends.values(), 1) if end - 1 <= reached_ms]
    assert 0 < len(closed) < 20
    assert late_by(topic, window) == {position(0, offset): 30_000 for offset in closed}
    assert reconciled(topic, window=window).open_windows == 21 - len(closed)
