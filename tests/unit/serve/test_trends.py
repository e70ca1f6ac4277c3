"""Trends over HTTP."""

from __future__ import annotations

from collections.abc import Callable

from starlette.testclient import TestClient

from tests.support.memory.api_store import NOW_MS

Connect = Callable[..., TestClient]


def test_last_hours_of_all_events(connect: Connect) -> None:
    trend = connect().get("/v1/trends", params={"count": 1}).json()
    [point] = trend["points"]
    assert trend["complete_until_ms"] == NOW_MS
    assert (point["value"], point["high"], point["outside"]) == (90.0, 8.0, True)


def test_category_counts_purchases_unless_a_type_is_given(connect: Connect) -> None:
    client = connect()
    params = {"by": "day", "metric": "amount", "category": "café"}
    assert client.get("/v1/trends", params=params).json()["points"] == []
    other = client.get("/v1/trends", params=params | {"event_type": "return"})
    assert other.json()["type"].endswith("not-counted")


def test_unknown_type_is_a_422_problem(connect: Connect) -> None:
    assert connect().get("/v1/trends", params={"event_type": "x"}).status_code == 422
