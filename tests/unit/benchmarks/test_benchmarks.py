"""The benchmarks' schedules: errors there falsify all latencies."""

from __future__ import annotations

import json

import numpy as np

from benchmarks.latency import schedule
from benchmarks.load.workload import Workload
from liveprofile.kafka.partitioner import partition_of
from liveprofile.settings import Settings

SMALL, SETTINGS = Workload(4_000, 300, hours=1), Settings()


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
