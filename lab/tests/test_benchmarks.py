"""The loads of the benchmarks: errors there falsify their results."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from benchmarks.load.workload import START_MS, Workload
from benchmarks.support.journal import Journal, JournalReader, OpenJournalMetrics
from lab.benchmarks import alerts, audit, storage, training_rows
from lab.benchmarks.gpu import NOT_MEASURED, measure_gpu, time_batches
from lab.benchmarks.latency import schedule
from lab.benchmarks.model_inputs import generated_rows
from lab.benchmarks.serve import Measured, measure, plan_requests
from liveprofile.kafka.partitioner import partition_of
from liveprofile.rows import TABLES
from liveprofile.settings import Settings, load
from models.profile.data import training_rows as rows
from tests.support.model_folders import SHIPPED

SMALL, SETTINGS = Workload(4_000, 300, hours=1), Settings()


@pytest.mark.parametrize("windows", [300, 900])
def test_training_rows_have_at_least_requested_windows(tmp_path, windows):
    training_rows.write(
        training_rows.workload_of_windows(windows), load(window=training_rows.WINDOW), tmp_path
    )
    streams = rows.read(tmp_path)
    assert windows <= len(streams.user_W) < 1.2 * windows
    assert len(streams.time_ms_N) == training_rows.EVENTS_PER_WINDOW * windows


def test_audit_finds_each_generated_record_in_its_class():
    """`measure` raises if the audit does not account for every record."""
    assert audit.measure(2_000)["records"] == 2_000


def test_files_of_a_table_are_counted_without_snapshots_and_other_tables(tmp_path: Path) -> None:
    for name, size in (
        ("score-1a/da-1-bti-Data.db", 100),
        ("score-1a/da-1-bti-Filter.db", 5),
        ("score-1a/snapshots/dropped/da-1-bti-Data.db", 1_000),
        ("score_hours-2b/da-1-bti-Data.db", 10_000),
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(size))
    assert storage.files_bytes(tmp_path, "score") == 105


def test_scores_are_those_of_the_workloads_events() -> None:
    workload = Workload(1_200, 100, hours=1)
    parts = list(storage.scored_events(workload, 1_100))
    rows = list(itertools.chain(*parts))
    assert [len(part) for part in parts] == [storage.BATCH_ROWS, storage.BATCH_ROWS, 100] and len(
        rows
    ) == 1_100
    assert len({row.event_id for row in rows}) == 1_100
    assert all(len(row.entities) == 5 and 0 <= row.score <= 1 for row in rows)
    assert any(row.active_rules for row in rows)


def test_every_counted_table_exists() -> None:
    assert storage.TABLES.keys() <= TABLES.keys()


class Model:
    decay_days = 30.0

    def __init__(self, calls: list[Any]):
        self._calls = calls

    def score(self, *inputs: Any) -> None:
        self._calls.append((len(inputs), len(inputs[2])))


def test_clock_is_read_when_the_gpu_has_finished() -> None:
    calls: list[Any] = []
    found = generated_rows(Workload(4_000, 300, hours=1)).take(range(150))
    times = time_batches(Model(calls), found, 2, lambda: calls.append("wait"))
    assert [*times] == [1, 64]
    assert calls[-4:] == ["wait", (6, 64), (6, 64), "wait"]
    assert calls.count("wait") == 2 * 2**2  # before and after each size and round


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a CUDA GPU")
def test_without_a_gpu_nothing_is_measured() -> None:
    assert measure_gpu(SHIPPED, Workload(4_000, 300, hours=1), 1) == {"result": NOT_MEASURED}


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def measured_on(delay_s: float, seconds: float = 0.5) -> Measured:
    """Measures 100 requests a second on a server that answers one connection after the other."""

    async def run() -> Measured:
        lock = asyncio.Lock()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while True:
                    await reader.readuntil(b"\r\n\r\n")
                    async with lock:
                        await asyncio.sleep(delay_s)
                    writer.write(ANSWER)
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await measure(f"http://127.0.0.1:{port}", plan_requests(["u"], 100, 0, seconds))

    return asyncio.run(run())


@pytest.mark.slow
def test_latency_counts_from_the_planned_time() -> None:
    fast = measured_on(0.0)
    assert set(fast.statuses) == {"200"}
    # 100 requests a second of 20 ms each queue up: a closed loop would report about 20 ms.
    slow = measured_on(0.02)
    assert slow.statuses["200"] == len(slow.latency_ms["single"]) == fast.statuses["200"]
    assert max(slow.latency_ms["single"]) > 200


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
        (event["user_id"], event["event_time"] // load().window.length_ms)
        for event in (json.loads(message.value) for message in SMALL.messages())
    }
    assert SMALL.profiles(load().window) == len(pairs)


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
