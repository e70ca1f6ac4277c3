"""What a store remembers of scored events. The same questions go to Cassandra in
tests/services/test_event_store.py."""

from __future__ import annotations

from tests.event_stores import HOUR_MS, START_MS, flag, scored
from udfs.event_store import MemoryEventStore, NoEventStore
from udfs.flags import FlagPast, FlagQuery


def test_nobody_has_no_past() -> None:
    assert MemoryEventStore().flag_past([FlagQuery("u", "a", START_MS)]) == [FlagPast(False, None)]


def test_the_same_event_again_changes_nothing() -> None:
    store = MemoryEventStore()
    for _ in range(2):
        store.begin([scored(active_rules=["a"], flags=[flag("a")])])
    assert len(store.scores) == len(store.flags) == 1


def test_an_event_has_no_past_of_its_own() -> None:
    """So that a replay decides as the first time."""
    store = MemoryEventStore()
    store.begin([scored(active_rules=["a"], flags=[flag("a")])])
    assert store.flag_past([FlagQuery("u", "a", START_MS)]) == [FlagPast(False, None)]
    assert store.flag_past([FlagQuery("u", "a", START_MS + 1)]) == [FlagPast(True, START_MS)]


def test_snoozes_are_asked_by_user() -> None:
    store = MemoryEventStore()
    store.snoozes["u"] = {"a": START_MS + HOUR_MS}
    assert store.snoozed(["u", "v"]) == {"u": {"a": START_MS + HOUR_MS}, "v": {}}


def test_no_store_remembers_nothing() -> None:
    store = NoEventStore()
    store.begin([scored(active_rules=["a"], flags=[flag("a")])])
    assert store.flag_past([FlagQuery("u", "a", START_MS + 1)]) == [FlagPast(False, None)]
    assert store.snoozed(["u"]) == {"u": {}}
