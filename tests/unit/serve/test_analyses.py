"""Forecasts, funnels and retention over HTTP, and the limit of what reads all users."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import nullcontext

import pytest
from starlette.testclient import TestClient

from liveprofile.settings import load
from liveprofile.units import DAY_MS, HOUR_MS
from serve.store.protocol import ScanBusy, ScanTooLarge
from serve.store.scans import CassandraScans, ScanLimit
from tests.support.memory.api_store import NOW_MS, MemoryApiStore

Connect = Callable[..., TestClient]


def test_forecast_has_the_hours_of_the_next_day(connect: Connect) -> None:
    forecast = connect().get("/v1/trends/forecast").json()
    assert forecast["day_ms"] == NOW_MS
    assert len(forecast["hours"]) == len(forecast["low"]) == 24
    assert all(low <= value for low, value in zip(forecast["low"], forecast["hours"], strict=True))
    assert forecast["total"] == pytest.approx(sum(forecast["hours"]))


@pytest.mark.parametrize(("event_type", "kind"), [("login", "too-short"), ("view", "not-counted")])
def test_series_without_a_forecast_is_a_404_problem(
    connect: Connect, event_type: str, kind: str
) -> None:
    answer = connect().get("/v1/trends/forecast", params={"event_type": event_type})
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (404, kind)


def test_funnel_has_its_steps_in_order(connect: Connect) -> None:
    params = {"step": ["view", "purchase"], "within_h": 24, "days": 2, "by": "category", "limit": 1}
    funnel = connect().get("/v1/funnel", params=params).json()
    assert list(funnel["groups"]) == ["all"]
    steps = [(step["event_type"], step["users"]) for step in funnel["groups"]["all"]]
    assert steps == [("view", 4), ("purchase", 3)]
    assert funnel["since_ms"] == NOW_MS - 2 * DAY_MS - 24 * HOUR_MS
    assert connect().get("/v1/funnel", params={"step": ["view"]}).status_code == 422


def test_retention(connect: Connect) -> None:
    client = connect()
    assert client.get("/v1/retention").json()["items"] == [
        {"week_ms": NOW_MS, "users": 5, "active": [5, 3]}
    ]
    other = client.get("/v1/retention", params={"event_type": "purchase"})
    assert other.json()["items"] == []


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [(ScanBusy("another"), 503, "unavailable"), (ScanTooLarge("more"), 422, "too-many-rows")],
)
def test_scan_that_is_refused(
    connect: Connect, store: MemoryApiStore, error: Exception, status: int, kind: str
) -> None:
    client = connect(None, authentication="none")
    store.fail = error
    answer = client.get("/v1/retention")
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (status, kind)


def test_scan_ends_at_its_limit_of_rows_and_time() -> None:
    now_s = [0.0]
    limit = ScanLimit(3, 10.0, lambda: now_s[0])
    assert list(limit.watch([1, 2])) == [1, 2]
    now_s[0] = 11.0
    with pytest.raises(ScanTooLarge, match="scan_timeout_ms"):
        list(limit.watch([3]))
    with pytest.raises(ScanTooLarge, match="more than 3 rows"):
        limit.take(9)
    limit = ScanLimit(3, 10.0, lambda: 0.0)
    limit.stopped = True
    with pytest.raises(ScanTooLarge):
        list(limit.watch([1]))


def test_second_scan_at_once_is_refused_and_does_not_wait() -> None:
    scans = CassandraScans(load(), lambda _: nullcontext())
    release = threading.Event()

    async def run() -> None:
        first = asyncio.create_task(scans.scan(lambda session, limit: release.wait(60)))
        await asyncio.sleep(0.05)
        with pytest.raises(ScanBusy):
            await scans.scan(lambda session, limit: None)
        release.set()
        assert await first
        assert await scans.scan(lambda session, limit: "next") == "next"

    asyncio.run(run())
    scans.stop_scans()
