"""What a store remembers of scored events. The same questions go to Cassandra in
tests/services/test_scoring_sink.py."""

from __future__ import annotations

from liveprofile.rules.flags import FlagHistory, FlagQuery
from liveprofile.units import HOUR_MS
from tests.support.memory_sinks import MemoryScoringSink
from tests.support.score_rows import START_MS, flag, scored
from udfs.null_sink import NullSink


def test_nobody_has_no_past() -> None:
    assert MemoryScoringSink().flag_history([FlagQuery("u", "a", START_MS)]) == [
        FlagHistory(False, None)
    ]


def test_the_same_event_again_changes_nothing() -> None:
    store = MemoryScoringSink()
    for _ in range(2):
        store.begin([scored(active_rules=["a"], flags=[flag("a")])])
    assert len(store.scores) == len(store.flags) == 1


def test_an_event_has_no_past_of_its_own() -> None:
    """So that a replay decides as the first time."""
    store = MemoryScoringSink()
    store.begin([scored(active_rules=["a"], flags=[flag("a")])])
    assert store.flag_history([FlagQuery("u", "a", START_MS)]) == [FlagHistory(False, None)]
    assert store.flag_history([FlagQuery("u", "a", START_MS + 1)]) == [FlagHistory(True, START_MS)]


def test_snoozes_are_asked_by_user() -> None:
    store = MemoryScoringSink()
    store.snoozes["u"] = {"a": START_MS + HOUR_MS}
    assert store.snoozed(["u", "v"]) == {"u": {"a": START_MS + HOUR_MS}, "v": {}}


def test_no_store_remembers_nothing() -> None:
    store = NullSink()
    store.begin([scored(active_rules=["a"], flags=[flag("a")])])
    assert store.flag_history([FlagQuery("u", "a", START_MS + 1)]) == [FlagHistory(False, None)]
    assert store.snoozed(["u"]) == {"u": {}}
