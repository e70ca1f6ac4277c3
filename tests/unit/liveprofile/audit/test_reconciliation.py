"""The audit: every record is heartbeat, used, duplicate, late or rejected, else it is reported."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.audit.audit import MAX_EXAMPLES, Audit
from liveprofile.audit.rows import position, split_position, stored_rows
from liveprofile.identity.merges import IdentityTable, Merge
from liveprofile.settings import WindowSettings
from liveprofile.units import MINUTE_MS
from tests.reference.windows import window_end_ms
from tests.unit.liveprofile.audit.topics import (
    START_MS,
    WINDOW,
    Delta,
    Topic,
    audited,
    offsets_of,
    reconciled,
    stored,
)


def test_each_class_of_record_is_counted():
    topic = Topic()
    topic.add("a")
    topic.add("b")
    topic.add("a")
    topic.add("c")
    topic.raw(b"{broken")
    topic.heartbeat(0)
    found = reconciled(topic, stored("a", "b"), rejected=[(0, 4)], late=[(0, 3)])
    assert found.ok
    counts = (found.used, found.duplicate, found.late, found.rejected, found.heartbeats)
    assert counts == (2, 1, 1, 1, 1)
    assert sum(counts) + found.unaccounted == found.in_topic == 6


def test_records_without_a_trace_of_erased_windows_are_erased():
    topic = Topic()
    topic.add("a")
    topic.add("b")
    topic.add("b")
    topic.add("c")
    topic.add("d", user_id="other")
    topic.add("e", at_ms=MINUTE_MS)
    found = reconciled(
        topic, stored("a"), rejected=[(0, 3)], claimed=[(0, 3)], erased=[("u", START_MS)]
    )
    counts = (found.used, found.erased, found.rejected, found.unaccounted, found.duplicate)
    assert counts == (1, 2, 1, 2, 0)
    assert sum(counts) == found.in_topic == 6 and not found.ok
    later = reconciled(topic, stored("a"), erased=[("u", START_MS), ("u", START_MS + MINUTE_MS)])
    assert (later.erased, later.unaccounted) == (4, 1)


def test_copy_of_an_event_rejected_after_its_claim_is_a_duplicate():
    topic = Topic()
    topic.add("a")
    topic.add("a")
    found = reconciled(topic, claimed=[(0, 0)])
    assert found.ok and (found.rejected, found.duplicate) == (1, 1)
    # A replay may use what was rejected before the failure.
    found = reconciled(topic, stored("a"), claimed=[(0, 0)])
    assert found.ok and (found.rejected, found.used, found.duplicate) == (0, 1, 1)


def test_copy_of_a_rejected_event_is_not_a_duplicate():
    topic = Topic()
    topic.add("a")
    topic.add("a")
    assert reconciled(topic, rejected=[(0, 0)]).unaccounted == 1
    assert reconciled(topic, stored("a"), rejected=[(0, 0)]).ok


def test_lost_event_is_counted_and_listed():
    topic = Topic()
    topic.add("a")
    topic.add("b", 7)
    topic.heartbeat(3 * MINUTE_MS)
    found = audited(topic, stored("a"))
    assert not found.counts.ok
    assert (found.counts.unaccounted, found.counts.open_windows) == (1, 0)
    assert found.examples == [
        {"partition": 0, "offset": 1, "event_time_ms": START_MS + 7, "open_window": False}
    ]


def test_examples_name_lost_records_in_closed_windows_first():
    topic = Topic()
    for number in range(MAX_EXAMPLES):
        topic.add(f"open {number}", 2 * MINUTE_MS)
    topic.add("lost", 0)
    topic.add("also open", 2 * MINUTE_MS)
    examples = audited(topic).examples
    assert [example["offset"] for example in examples] == [MAX_EXAMPLES, *range(MAX_EXAMPLES - 1)]
    assert [example["open_window"] for example in examples] == [False, *[True] * (MAX_EXAMPLES - 1)]


@pytest.mark.parametrize("deltas", [[stored("a", "a")], [stored("a"), stored("a")]])
def test_event_stored_twice_is_counted(deltas):
    topic = Topic()
    topic.add("a")
    found = reconciled(topic, *deltas)
    assert (found.used, found.used_twice, found.ok) == (1, 1, False)


def test_event_stored_for_another_user_is_unknown_and_unaccounted():
    topic = Topic()
    topic.add("a", user_id="u")
    found = reconciled(topic, stored("a", user_id="v"))
    assert (found.unaccounted, found.unknown, found.ok) == (1, 1, False)


def test_unknown_event_is_accepted_after_records_expired():
    topic = Topic()
    topic.add("b")
    assert not reconciled(topic, stored("a", "b")).ok
    found = reconciled(topic, stored("a", "b"), first=5)
    assert (found.unknown, found.expired, found.ok) == (1, 5, True)


def test_unknown_event_is_accepted_after_an_archive():
    topic = Topic()
    topic.add("b")
    found = reconciled(topic, stored("a", "b"), archive=True)
    assert (found.unknown, found.ok) == (1, True)
    topic.add("c")
    assert not reconciled(topic, stored("a", "b"), archive=True).ok


def test_rejected_heartbeat_counts_as_rejected():
    topic = Topic()
    topic.raw(b'{"event_type": "heartbeat"}')
    found = reconciled(topic, rejected=[(0, 0)])
    assert (found.rejected, found.heartbeats) == (1, 0)


@pytest.mark.parametrize(
    "value", [None, b"", b"\xff", b"[1]", b'"text"', b"{}", b'{"event_id": "a"}', b"[" * 2_000]
)
def test_unreadable_record_must_be_in_the_rejected_topic(value):
    topic = Topic()
    topic.raw(value)
    assert reconciled(topic).unaccounted == 1
    assert reconciled(topic, rejected=[(0, 0)]).ok


@pytest.mark.parametrize(
    ("literal", "text"),
    [("7", "7"), ('"7"', "7"), (str(2**64 - 1), str(2**64 - 1)), ("9" * 40, "9" * 40)],
)
def test_integer_id_equals_its_text(literal, text):
    topic = Topic()
    topic.raw(f'{{"event_id":{literal},"user_id":"u","event_type":"view","event_time":1}}'.encode())
    assert reconciled(topic, stored(text)).ok


def test_lost_record_in_an_open_window_is_counted_separately():
    topic = Topic()
    topic.add("a", 10)
    topic.add("b", MINUTE_MS + 10)
    found = reconciled(topic, stored("a"))
    assert (found.unaccounted, found.open_windows) == (1, 1)
    topic.heartbeat(2 * MINUTE_MS + WINDOW.out_of_orderness_ms)
    found = reconciled(topic, stored("a"))
    assert (found.unaccounted, found.open_windows) == (1, 0)
    assert reconciled(topic, stored("a"), empty=[1]).open_windows == 1


def test_empty_topic_is_accounted_for():
    found = reconciled(Topic())
    assert found.ok
    assert found.in_topic == 0


def test_digests_of_wrong_length_are_rejected():
    with pytest.raises(ValueError, match="7 bytes of digests for 1 events"):
        list(stored_rows([Delta("u", 0, 1, 1, b"1234567")], 0, 0))


def test_record_from_the_future_does_not_close_windows():
    topic = Topic()
    topic.add("lost", 0)
    topic.heartbeat(10 * MINUTE_MS, record_ms=0)
    assert reconciled(topic).open_windows == 1
    topic.heartbeat(10 * MINUTE_MS, record_ms=2 * MINUTE_MS)
    assert reconciled(topic).open_windows == 0


@given(st.integers(0, 1_000), st.integers(0, 2**47))
def test_split_position_inverts_position(partition, offset):
    assert split_position(position(partition, offset)) == (partition, offset)


@pytest.mark.slow
@given(st.data())
def test_random_topic_matches_a_plain_python_job(data):
    """A plain Python job classifies the records; the audit must count the same from its output."""
    topic = Topic()
    rejected, late, used, seen = [], [], [], set()
    expected = dict.fromkeys(("used", "duplicate", "late", "rejected", "heartbeats"), 0)
    for partition in data.draw(st.lists(st.integers(0, 2), max_size=60)):
        kind = data.draw(st.sampled_from(["event", "late", "broken", "heartbeat"]))
        offset = sum(record.partition == partition for record in topic.records)
        # Copies of an event have the same key and therefore the same partition.
        event_id = f"{partition}-{data.draw(st.integers(0, 8))}"
        if kind == "heartbeat":
            topic.heartbeat(0, partition)
            expected["heartbeats"] += 1
            continue
        topic.add(event_id, partition=partition)
        if kind == "broken":
            rejected.append((partition, offset))
            expected["rejected"] += 1
        elif event_id in seen:
            expected["duplicate"] += 1
        else:
            seen.add(event_id)
            (late if kind == "late" else used).append(
                (partition, offset) if kind == "late" else event_id
            )
            expected["late" if kind == "late" else "used"] += 1
    topic.records = data.draw(st.permutations(topic.records))
    found = reconciled(topic, stored(*used), rejected=rejected, late=late)
    assert found.ok
    assert {name: getattr(found, name) for name in expected} == expected


def late_by(topic: Topic, window: WindowSettings = WINDOW, rejected=()) -> dict[int, int]:
    """Lateness in ms by partition and offset of the records, all of which are lost."""
    with Audit(window) as audit:
        audit.add_rejected(rejected)
        audit.add_records(topic.records, offsets_of(topic))
        audit.report()
        return dict(pair for part in audit.lateness_ms() for pair in part.items())


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
    assert late_by(topic) == {(0, 3): 501}


def test_rejected_record_does_not_advance_the_watermark():
    topic = Topic()
    topic.add("a", 100_000)
    topic.add("b", 0)
    assert late_by(topic) == {(0, 1): 99_000}
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
    assert late_by(topic, window) == {(0, offset): 30_000 for offset in closed}
    assert reconciled(topic, window=window).open_windows == 21 - len(closed)


MERGE_MS = START_MS + 2_000


def merged() -> IdentityTable:
    table = IdentityTable()
    table.put("alias", [Merge("u", MERGE_MS)])
    return table


def topic_of_alias() -> Topic:
    topic = Topic()
    topic.add("a", 1_000, user_id="alias")
    topic.add("b", 3_000, user_id="alias")
    topic.add("c", 3_000, user_id="u")
    topic.heartbeat(10 * MINUTE_MS)
    return topic


def test_events_of_an_alias_are_used_in_either_profile() -> None:
    deltas = stored("a", user_id="alias"), stored("b", "c")
    found = reconciled(topic_of_alias(), *deltas, identities=merged())
    assert found.ok and found.used == 3
    without = reconciled(topic_of_alias(), *deltas)
    assert not without.ok and without.unaccounted == without.unknown == 1


def test_an_event_in_both_profiles_is_used_twice_unless_a_correction_has_moved_it() -> None:
    twice = reconciled(
        topic_of_alias(), stored("a", user_id="alias"), stored("a", "b", "c"), identities=merged()
    )
    assert not twice.ok and twice.used_twice == 1
    moved = reconciled(
        topic_of_alias(),
        stored("a", user_id="alias"),
        stored("a", "b", "c")._replace(revision=1),
        identities=merged(),
    )
    assert moved.ok and moved.used == 3
    assert reconciled(
        topic_of_alias(), stored("a", "b", "c")._replace(revision=1), identities=merged()
    ).ok


def test_a_lost_event_of_an_alias_is_found() -> None:
    lost = reconciled(topic_of_alias(), stored("b", "c"), identities=merged())
    assert lost.unaccounted == 1 and not lost.open_windows


def test_windows_are_those_of_the_person() -> None:
    window = WindowSettings(length_ms=60_000, out_of_orderness_ms=1_000, stagger_ms=1_000)
    table = IdentityTable()
    table.put("a", [Merge("b", START_MS)])
    ends: dict[str, int] = {}
    for user_id in ("a", "b"):
        topic = Topic()
        topic.add("e", 5_000, user_id=user_id)
        closes = (
            at_ms
            for at_ms in range(5_000, 3 * MINUTE_MS, 1_000)
            if not _is_open(topic, at_ms, window, table)
        )
        ends[user_id] = next(closes)
    assert ends["a"] == ends["b"]


def _is_open(topic: Topic, closed_ms: int, window: WindowSettings, table: IdentityTable) -> bool:
    longer = Topic()
    longer.records = list(topic.records)
    longer.heartbeat(closed_ms + window.out_of_orderness_ms)
    return bool(reconciled(longer, window=window, identities=table).open_windows)
