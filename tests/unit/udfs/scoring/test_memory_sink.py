"""MemoryScoringSink and NullSink; tests/services/storage/ compares the first with Cassandra."""

from __future__ import annotations

from liveprofile.rules.flags import FlagHistory, FlagQuery, RowPosition
from liveprofile.units import HOUR_MS
from tests.support.memory.sinks import MemoryScoringSink
from tests.support.rows.scored_events import START_MS, flag, scored_event
from udfs.profile.sink import NullSink


def test_unknown_user_has_no_flag_history() -> None:
    assert MemoryScoringSink().flag_history([FlagQuery("u", "a", START_MS)]) == [FlagHistory()]


def test_writing_an_event_twice_stores_one_row() -> None:
    sink = MemoryScoringSink()
    for _ in range(2):
        sink.write([scored_event(active_rules=["a"], flags=[flag("a")])])
    assert len(sink.scores) == len(sink.flags) == 1


def test_flag_history_tells_an_event_from_its_predecessors() -> None:
    sink = MemoryScoringSink()
    sink.write([scored_event(active_rules=["a"], flags=[flag("a")])])
    own, later = FlagQuery("u", "a", START_MS, "e0"), FlagQuery("u", "a", START_MS + 1, "e1")
    assert sink.flag_history([own, later]) == [
        FlagHistory(is_raised=True),
        FlagHistory(RowPosition(START_MS, "e0"), True, START_MS),
    ]


def test_snoozed_returns_the_rules_of_each_user() -> None:
    sink = MemoryScoringSink()
    sink.snoozes["u"] = {"a": START_MS + HOUR_MS}
    assert sink.snoozed(["u", "v"]) == {"u": {"a": START_MS + HOUR_MS}, "v": {}}


def test_null_sink_has_no_flag_history_and_no_snoozes() -> None:
    sink = NullSink()
    sink.write([scored_event(active_rules=["a"], flags=[flag("a")])])
    assert sink.flag_history([FlagQuery("u", "a", START_MS + 1)]) == [FlagHistory()]
    assert sink.snoozed(["u"]) == {"u": {}}
