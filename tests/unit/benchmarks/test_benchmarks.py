"""The benchmarks' loads, schedules and clocks: errors there falsify all results."""

from __future__ import annotations

import json
import time
from contextlib import closing
from unittest.mock import MagicMock

import numpy as np
import pytest

from benchmarks import alerts
from benchmarks.latency import schedule
from benchmarks.load.workload import START_MS, Workload
from benchmarks.support.journal import Journal, JournalReader, OpenJournalMetrics
from liveprofile.kafka.partitioner import partition_of
from liveprofile.settings import Settings

SMALL = Workload(4_000, 300, hours=1)
SETTINGS = Settings()
WINDOW_MS = SETTINGS.window.length_ms


def test_events_are_deterministic_ordered_and_disjoint_between_seeds():
    first, again = (list(SMALL.messages()) for _ in range(2))
    assert first == again
    events = [json.loads(message.value) for message in first]
    times = [event["event_time"] for event in events]
    assert times == sorted(times)
    assert START_MS <= times[0] <= times[-1] < SMALL.end_ms
    ids = {event["event_id"] for event in events}
    assert len(ids) == SMALL.n
    assert ids.isdisjoint(
        json.loads(message.value)["event_id"] for message in SMALL.warm_up().messages()
    )


def test_number_of_profiles_equals_number_of_user_window_pairs():
    pairs = {
        (event["user_id"], event["event_time"] // WINDOW_MS)
        for event in (json.loads(message.value) for message in SMALL.messages())
    }
    assert SMALL.profiles(SETTINGS.window) == len(pairs)


def test_window_closes_when_slowest_partition_passes_its_end():
    plan = schedule(SMALL, SETTINGS, events_per_s=1_000)
    assert abs(plan.due_s[-1] - SMALL.n / 1_000) < 0.1
    events = [json.loads(message.value) for message in plan.messages]
    end_ms, closes_s = sorted(plan.closes_s.items())[0]
    watermarks = np.zeros(SETTINGS.topics.partitions)
    for message, event, due_s in zip(plan.messages, events, plan.due_s, strict=True):
        partition = partition_of(message.key, SETTINGS.topics.partitions)
        watermarks[partition] = event["event_time"] - SETTINGS.window.out_of_orderness_ms
        if watermarks.min() >= end_ms - 1:
            assert due_s == closes_s
            break
    else:
        raise AssertionError("no event closes the window")


def test_journal_is_read_while_being_written(tmp_path):
    assert callable(OpenJournalMetrics(str(tmp_path))(MagicMock()))  # as a worker opens it
    reader = JournalReader(tmp_path)
    with closing(Journal(str(tmp_path))) as first, closing(Journal(str(tmp_path))) as second:
        assert reader.update() == 0
        first.write(3)
        assert reader.update() == 3
        (tmp_path / "half.jsonl").write_text("[1.0, 2,")
        second.write(4)
        assert reader.update() == 7
    assert 0 < time.time() - reader.last_s < 60


def test_scored_events_have_constant_rate_and_flagged_users_occur_once():
    planned: dict[str, float] = {}
    workload = Workload.of(2_000, 500)
    events_due = list(alerts.scored_events(workload, 50.0, 10.0, 4.0, planned))
    assert [event.at_s for event in events_due] == pytest.approx(np.arange(200) / 50)
    events = [json.loads(event.message.value) for event in events_due]
    assert (
        events[50]["event_time"] - events[0]["event_time"] == 10_000
    )  # a second, ten times as fast
    flagged = [event for event in events if event["amount"] == alerts.FLAGGED_AMOUNT]
    assert [event["event_id"] for event in flagged] == list(planned)
    assert len({event["user_id"] for event in flagged}) == len(flagged) == 40
