"""The drift monitor of several workers: decisions, alerts, resending."""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import jsonschema
import numpy as np
import pytest

from liveprofile.drift.alert import DRIFT_ALERT_TYPE
from liveprofile.drift.reference import LATENESS_MS, DriftReference
from liveprofile.drift.store import CassandraDriftStore, DriftState
from liveprofile.errors import ServiceError
from liveprofile.resources import product_path
from liveprofile.settings import CassandraSettings, load
from liveprofile.units import HOUR_MS
from liveprofile.wire.tokens import FIELD, WINDOW
from models.fraud.model import FraudModel
from tests.reference.scoring import event_parts
from tests.support.memory.cassandra import MemoryCassandra
from tests.support.paths import ROOT
from tests.support.rows.drift_data import NAMES, START_MS, events, make_reference
from tests.support.scoring_harness import ScoringHarness, purchases
from udfs.scoring.drift_monitor import MAX_ALERT_AGE_MS, DriftMonitor

SCHEMA = json.loads((ROOT / "schemas/drift-alert.schema.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def reference() -> DriftReference:
    return make_reference()


def memory_store() -> CassandraDriftStore:
    return CassandraDriftStore(MemoryCassandra(), CassandraSettings(), 3_600)


class InlineExecutor(Executor):
    """Runs a task in `submit`, so that the caller knows when."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


class Clock:
    now_s = 1e9

    def __call__(self) -> float:
        return self.now_s


class Workers:
    """Workers that share a store. Each step adds an hour of events to each and checks all."""

    def __init__(self, reference: DriftReference, count: int = 2, after_days: float = 0.0):
        self.reference, self.store, self.clock = reference, memory_store(), Clock()
        self.after_days, self.hour = after_days, 0
        self.monitors = [self.monitor() for _ in range(count)]
        self._rng = np.random.default_rng(7)
        self.step()  # the hour in which the job starts is not decided

    def monitor(self) -> DriftMonitor:
        shared = (self.reference, "m-1", NAMES, self.store, self.after_days, self.clock)
        return DriftMonitor(*shared, InlineExecutor(), "urn:shop:eu")

    def step(self, factor: float = 1.0, count: int = 1_000) -> list[dict]:
        """Adds one hour of events and returns the alerts of the checks after it."""
        start_ms, found = START_MS + self.hour * HOUR_MS, []
        self.hour += 1
        for at_ms, of_count in ((start_ms, count), (start_ms + HOUR_MS + LATENESS_MS, 1)):
            for monitor in self.monitors:
                x_NF, score_N = events(self._rng, of_count)
                if at_ms == start_ms:
                    x_NF[:, 0] *= factor
                rows = range(of_count)
                found += monitor.observe(x_NF, score_N, np.full(of_count, at_ms), rows, rows)
                self.clock.now_s += 61
        return [json.loads(alert) for alert in found]

    def state(self) -> DriftState:
        return self.store.state(self.reference.version)


def test_drift_is_told_by_each_worker_at_start_and_at_end(reference: DriftReference) -> None:
    workers = Workers(reference)
    sent = {hour: workers.step(5.0 if 4 <= hour < 7 else 1.0) for hour in range(12)}
    alerts = {alert["id"]: alert for of_hour in sent.values() for alert in of_hour}
    assert [alert["data"]["state"] for alert in alerts.values()] == ["started", "ended"]
    assert sum(map(len, sent.values())) == 2 * len(workers.monitors)
    assert [hour for hour, of_hour in sent.items() if of_hour] == [4, 8]
    started, ended = alerts.values()
    for alert in (started, ended):
        jsonschema.Draft202012Validator(SCHEMA).validate(alert)
        assert alert["type"] == DRIFT_ALERT_TYPE
        assert alert["subject"] == "m-1"
        assert alert["source"] == "urn:shop:eu/profile-job"
    assert started["data"]["events"] >= 2_000  # of both workers
    assert started["data"]["reasons"][0]["name"] == "amount"
    assert started["data"]["since"] == ended["data"]["since"] == started["data"]["period_start"]
    assert ended["data"]["reasons"] == []


def test_hours_with_too_few_events_change_no_state(reference: DriftReference) -> None:
    workers = Workers(reference, count=1)
    assert workers.step(5.0)
    before = workers.state()
    for _ in range(4):
        assert workers.step(1.0, count=10) == []
    assert workers.state() == before


def test_young_shop_gets_no_decision(reference: DriftReference) -> None:
    workers = Workers(reference, count=1, after_days=0.25)
    sent = [bool(workers.step(5.0)) for _ in range(9)]
    assert sent == [False] * 6 + [True] + [False] * 2


def test_moderate_shift_starts_drift_in_its_second_hour(reference: DriftReference) -> None:
    workers = Workers(reference, count=1)
    sent = [workers.step(factor, count=4_000) for factor in (1.45, 1, 1, 1.45, 1.45)]
    assert [len(of_hour) for of_hour in sent] == [0, 0, 0, 0, 1]
    assert sent[4][0]["data"]["since"] < sent[4][0]["data"]["period_start"]


def test_restarted_worker_sends_the_newest_alert_again_unless_it_is_old(
    reference: DriftReference,
) -> None:
    workers = Workers(reference, count=1)
    (alert,) = workers.step(5.0)
    workers.monitors = [workers.monitor()]
    assert [workers.step(5.0) for _ in range(4)] == [[alert], [], [], []]
    workers.monitors = [workers.monitor()]
    workers.clock.now_s += MAX_ALERT_AGE_MS / 1_000
    assert [workers.step(5.0) for _ in range(4)] == [[]] * 4


class SlowStore(CassandraDriftStore):
    """Answers after `release`; fails while `is_away`."""

    def __init__(self) -> None:
        super().__init__(MemoryCassandra(), CassandraSettings(), 3_600)
        self.release, self.is_away = threading.Event(), False

    def write(self, *counts) -> None:
        assert self.release.wait(10)
        if self.is_away:
            raise ServiceError("no node answers")
        super().write(*counts)


def test_slow_store_does_not_delay_scoring_and_loses_no_counts(
    reference: DriftReference, caplog: pytest.LogCaptureFixture
) -> None:
    store, clock, rng = SlowStore(), Clock(), np.random.default_rng(8)
    monitor = DriftMonitor(reference, "m-1", NAMES, store, 0.0, clock)

    def observe(count: int = 500) -> None:
        clock.now_s += 6
        x_NF, score_N = events(rng, count)
        times = np.full(count, START_MS)
        started_s = time.monotonic()
        assert monitor.observe(x_NF, score_N, times, range(count), range(count)) == []
        assert time.monotonic() - started_s < 1

    def wait_for_task() -> None:
        deadline_s = time.monotonic() + 60
        while not monitor._task.done():
            assert time.monotonic() < deadline_s
            time.sleep(0.01)

    observe()
    observe()  # the first write still waits
    store.is_away = True
    store.release.set()
    wait_for_task()
    assert "drift monitoring is behind: no node answers" in caplog.text
    store.is_away = False
    observe()
    wait_for_task()
    monitor.close()
    totals = store.totals(reference.version, START_MS)
    assert totals.reshape(len(reference.series), -1)[-1].sum() == 1_500


class FakeMonitor:
    """Replaces the drift monitor and returns one alert per batch."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, list[str], list[int]]] = []

    def observe(self, x_nF, score_n, event_ms_n, user_n, rows) -> list[str]:
        self.seen.append((x_nF.shape[1], list(user_n), list(rows)))
        return ['{"drift": 1}']


def test_scorer_sends_alerts_of_the_monitor_without_duplicates() -> None:
    model = FraudModel.load(product_path(load().scoring.checkpoint))
    scorer = ScoringHarness(model)
    scorer._scorer._monitor = monitor = FakeMonitor()
    arrivals = purchases(3)
    texts = [event_parts(arrivals, row) for row in (0, 1, 1, 2)]
    again = event_parts([*arrivals, arrivals[0]], 3)
    sent = scorer._scorer.score(["u"] * 5, [*texts, again])
    assert monitor.seen == [(len(model.names), ["u"] * 5, [0, 1, 2, 3])]
    message = FIELD.join(("risk-alerts", model.version, *[""] * 5)) + WINDOW + '{"drift": 1}'
    assert [message in of_row for of_row in sent] == [False] * 3 + [True, False]
