"""The audit: every record is heartbeat, used, duplicate, late or rejected, else it is reported."""

import pytest

from liveprofile.identity.merges import IdentityTable, Merge
from liveprofile.settings import WindowSettings
from liveprofile.units import MINUTE_MS
from services.event_audit.rows import stored_rows
from tests.reference.windows import window_end_ms
from tests.unit.services.event_audit.topics import (
    START_MS,
    WINDOW,
    Delta,
    Topic,
    audited,
    reconciled,
    stored,
)


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


def corrected(*event_ids: str) -> Delta:
    return stored(*event_ids)._replace(revision=1)


@pytest.mark.parametrize(
    ("events", "delta", "more", "expected"),
    [
        # A copy after its rejection is no duplicate, unless the event had claimed its id.
        ("aa", stored(), {"rejected": [(0, 0)]}, {"rejected": 1, "unaccounted": 1}),
        ("aa", stored("a"), {"rejected": [(0, 0)]}, {"rejected": 1, "used": 1}),
        ("aa", stored(), {"claimed": [(0, 0)]}, {"rejected": 1, "duplicate": 1}),
        # A replay may use what was rejected before the failure.
        ("aa", stored("a"), {"claimed": [(0, 0)]}, {"used": 1, "duplicate": 1}),
        ("aa", stored(), {"late": [(0, 0)]}, {"late": 1, "duplicate": 1}),
        ("aa", stored(), {"late": [(0, 1)]}, {"late": 1, "unaccounted": 1}),
        ("aa", stored("a"), {"late": [(0, 1)]}, {"used": 1, "late": 1}),
        ("a", stored("a"), {"late": [(0, 0)]}, {"late": 1, "late_and_used": 1}),
        (
            "abb",
            corrected("a", "b"),
            {"late": [(0, 1)]},
            {"used": 1, "corrected": 1, "duplicate": 1},
        ),
        ("aa", corrected("a"), {"late": [(0, 1)]}, {"used": 1, "late": 1}),
        ("ab", corrected("b"), {"late": [(0, 1)]}, {"corrected": 1, "unaccounted": 1}),
        ("b", stored("a", "b"), {}, {"used": 1, "unknown": 1}),
        ("b", stored("a", "b"), {"archive": True}, {"used": 1, "unknown": 1}),
    ],
)
def test_class_follows_from_the_outcomes_of_all_copies(events, delta, more, expected) -> None:
    topic = Topic()
    for event_id in events:
        topic.add(event_id)
    found = reconciled(topic, delta, **more)
    names = ("used", "duplicate", "late", "corrected", "rejected", "unaccounted")
    counts = {name: getattr(found, name) for name in (*names, "late_and_used", "unknown")}
    assert {name: count for name, count in counts.items() if count} == expected
    wrong = {"unaccounted", "late_and_used"} | ({"unknown"} if not more.get("archive") else set())
    assert found.ok is not bool(wrong & expected.keys())


def test_copies_in_two_partitions_count_once_and_expired_records_explain_unknown_events() -> None:
    topic = Topic()
    topic.add("a", partition=0)
    topic.add("a", partition=1)
    found = reconciled(topic, late=[(1, 0)])
    assert found.ok and (found.late, found.duplicate) == (1, 1)
    topic = Topic()
    topic.add("b")
    found = reconciled(topic, stored("a", "b"), first=5)
    assert (found.unknown, found.expired, found.ok) == (1, 5, True)


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


@pytest.mark.parametrize(
    "value", [None, b"", b"\xff", b"[1]", b'"text"', b"{}", b'{"event_id": "a"}', b"[" * 2_000]
)
def test_unreadable_record_must_be_in_the_rejected_topic(value):
    topic = Topic()
    topic.raw(value)
    assert reconciled(topic).unaccounted == 1
    assert reconciled(topic, rejected=[(0, 0)]).ok


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
