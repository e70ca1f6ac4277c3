"""Forecasts, funnels and retention over HTTP, and the limit of what reads all users."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import orjson
import pytest
from starlette.testclient import TestClient

from liveprofile.settings import load
from liveprofile.trends.counts import Series
from liveprofile.units import DAY_MS, HOUR_MS
from serve.store.scans import ScanBusy, ScanLimit, Scans, ScanTooLarge
from tests.support.memory.api import NOW_MS, MemoryApi
from tests.support.rows.api_rows import USERS, raw_delta

Connect = Callable[..., TestClient]


ALL = Series("all", "", "all")


def test_forecast_has_the_hours_of_the_next_day(connect: Connect, api: MemoryApi) -> None:
    hours = np.random.default_rng(1).poisson(5.0, 90 * 24)
    first_ms = NOW_MS // DAY_MS * DAY_MS - 90 * DAY_MS
    api.put_counts(ALL, "hour", {first_ms + n * HOUR_MS: (v, 1.0) for n, v in enumerate(hours)})
    client = connect()
    forecast = client.get("/v1/trends/forecast").json()
    assert forecast["day_ms"] == NOW_MS // DAY_MS * DAY_MS
    assert len(forecast["hours"]) == len(forecast["low"]) == 24
    assert all(low <= value for low, value in zip(forecast["low"], forecast["hours"], strict=True))
    assert forecast["total"] == pytest.approx(sum(forecast["hours"]))
    few = client.get("/v1/trends/forecast", params={"event_type": "login"})
    assert (few.status_code, kind_of(few)) == (404, "too-short")


def test_last_points_of_a_series(connect: Connect, api: MemoryApi) -> None:
    client = connect()
    uncounted = client.get("/v1/trends")
    assert (uncounted.status_code, kind_of(uncounted)) == (404, "not-counted")
    assert kind_of(client.get("/v1/trends/forecast")) == "not-counted"
    last_ms = NOW_MS // HOUR_MS * HOUR_MS - HOUR_MS
    steady = {last_ms - n * HOUR_MS: (5, 1.0) for n in range(1, 24 * 7 * 17)}
    api.put_counts(ALL, "hour", steady | {last_ms: (90, 1.0)})
    trend = client.get("/v1/trends", params={"count": 1}).json()
    [point] = trend["points"]
    assert (trend["complete_until_ms"], point["start_ms"]) == (NOW_MS, last_ms)
    assert (point["value"], point["outside"]) == (90.0, True)
    assert point["low"] <= 5.0 <= point["high"]


def test_category_counts_purchases_unless_a_type_is_given(connect: Connect, api: MemoryApi) -> None:
    series = Series("category", "café", "purchase")
    api.put_counts(series, "day", {NOW_MS // DAY_MS * DAY_MS - DAY_MS: (3, 20.25)})
    client = connect()
    params = {"by": "day", "metric": "amount", "category": "café", "count": 1}
    [point] = client.get("/v1/trends", params=params).json()["points"]
    assert point["value"] == 20.25
    other = client.get("/v1/trends", params=params | {"event_type": "return"})
    assert other.json()["points"] == []
    assert client.get("/v1/trends", params={"event_type": "x"}).status_code == 422


def test_funnel_and_retention_of_stored_windows(connect: Connect, api: MemoryApi) -> None:
    counts = [{"view": 2}, {"view": 1, "cart": 1, "purchase": 1}]
    for user, of_user in zip(USERS[:2], counts, strict=True):
        row = raw_delta(20, user)
        api.put(row._replace(delta=orjson.dumps({"window": {"counts": of_user}}).decode()))
    client = connect()
    params = {"step": ["view", "purchase"], "within_h": 1, "days": 2, "by": "segment", "limit": 1}
    funnel = client.get("/v1/funnel", params=params).json()
    assert list(funnel["groups"]) == ["all"]
    steps = [(step["event_type"], step["users"]) for step in funnel["groups"]["all"]]
    assert steps == [("view", 2), ("purchase", 1)]
    assert funnel["since_ms"] == NOW_MS - 2 * DAY_MS - HOUR_MS
    assert client.get("/v1/funnel", params={"step": ["view"]}).status_code == 422
    assert client.get("/v1/retention").json() == {"items": []}  # no complete week
    monday_ms = NOW_MS // DAY_MS * DAY_MS - 20 * DAY_MS
    first = raw_delta(0)._replace(window_start_ms=monday_ms, window_end_ms=monday_ms + HOUR_MS)
    api.put(first._replace(delta=orjson.dumps({"before": {"windows": 0}}).decode()))
    [cohort, *_] = client.get("/v1/retention").json()["items"]
    assert cohort["users"] == 1


@pytest.mark.parametrize(
    ("serve", "status", "kind"),
    [({"max_scan_rows": 1}, 422, "too-many-rows")],
)
def test_scan_beyond_its_limit_is_refused(
    connect: Connect, serve: dict[str, int], status: int, kind: str
) -> None:
    answer = connect(store=serve).get("/v1/retention")
    assert (answer.status_code, kind_of(answer)) == (status, kind)


def kind_of(answer: Any) -> str:
    return answer.json()["type"].rpartition(":")[2]


def test_scan_ends_at_its_limit_of_rows_and_time() -> None:
    now_s = [0.0]
    limit = ScanLimit(3, 10.0, lambda: now_s[0])
    assert list(limit.watch([1, 2])) == [1, 2]
    now_s[0] = 11.0
    with pytest.raises(ScanTooLarge, match="not done within 10 s"):
        list(limit.watch([3]))
    with pytest.raises(ScanTooLarge, match="more than 3 rows"):
        limit.take(9)
    limit = ScanLimit(3, 10.0, lambda: 0.0)
    limit.stopped = True
    with pytest.raises(ScanTooLarge):
        list(limit.watch([1]))


def test_second_scan_at_once_is_refused_and_does_not_wait() -> None:
    scans = Scans(load(), lambda _: nullcontext(None))
    release = threading.Event()

    async def run() -> None:
        first = asyncio.create_task(scans.run(lambda session, limit: release.wait(60)))
        await asyncio.sleep(0.05)
        with pytest.raises(ScanBusy):
            await scans.run(lambda session, limit: None)
        release.set()
        assert await first
        assert await scans.run(lambda session, limit: "next") == "next"

    asyncio.run(run())
    scans.stop()
