"""The audit of a job that follows merges: an event counts for any id of its person."""

from __future__ import annotations

from liveprofile.identity.merges import IdentityTable, Merge
from liveprofile.settings import WindowSettings
from liveprofile.units import MINUTE_MS
from tests.unit.liveprofile.audit.written_topic import START_MS, Topic, reconciled, stored

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
