"""Request ids, limits, deadlines, log and metrics of every request."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import httpx2
import pytest
from starlette.testclient import TestClient

from liveprofile.pseudonym import user_pseudonym
from liveprofile.settings import ServeSettings
from serve.app import create_app
from serve.guard import MAX_BODY_BYTES
from tests.support.event_loop import on_loop
from tests.support.memory.api import MemoryApi

Connect = Callable[..., TestClient]


def test_request_id_is_echoed_or_made(connect: Connect) -> None:
    client = connect()
    given = client.get("/health/live", headers={"X-Request-Id": "shop-1.2_3"})
    assert given.headers["x-request-id"] == "shop-1.2_3"
    made = client.get("/health/live", headers={"X-Request-Id": 'a"b'}).headers["x-request-id"]
    assert len(made) == 32


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/users/", 404),
        ("DELETE", "/v1/users/42", 405),
        ("GET", "/v1/users/42?at=x", 422),
        ("GET", "/v1/users/42/deltas?limit=0", 422),
        ("GET", "/v1/users/42/deltas?limt=5", 422),
    ],
)
def test_every_error_is_a_problem(connect: Connect, method: str, path: str, status: int) -> None:
    answer = connect().request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_store_that_does_not_answer_is_503_and_recovers(connect: Connect, api: MemoryApi) -> None:
    client = connect()
    assert client.get("/health/ready").status_code == 200
    api.session.stop_answering()
    assert client.get("/health/live").status_code == 200
    ready = client.get("/health/ready")
    assert (ready.status_code, ready.headers["retry-after"]) == (503, "1")
    api.session.fail = None
    assert client.get("/health/ready").status_code == 200


def test_slow_store_is_503_at_the_deadline(connect: Connect, api: MemoryApi) -> None:
    client = connect(deadline_ms=100)
    api.session.delay_s = 5.0
    started_s = time.monotonic()
    answer = client.get("/health/ready")
    assert time.monotonic() - started_s < api.session.delay_s - 1
    assert answer.status_code == 503
    assert "took too long" in answer.json()["detail"]


def test_bug_is_a_500_problem_with_the_request_id(
    connect: Connect, api: MemoryApi, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect()
    api.session.fail = KeyError("bug")
    answer = client.get("/health/ready", headers={"X-Request-Id": "abc"})
    assert answer.status_code == 500
    assert answer.json()["request_id"] == "abc"
    assert "bug" not in answer.text
    assert "request abc failed" in caplog.text


def test_large_body_is_a_413_problem(connect: Connect) -> None:
    answer = connect().post("/v1/users:batchGet", content=b"x" * (MAX_BODY_BYTES + 1))
    assert answer.status_code == 413


@on_loop
async def test_too_many_requests_at_once_are_503(api: MemoryApi) -> None:
    app = create_app(ServeSettings(max_in_flight=2, deadline_ms=60_000), api.store())
    api.session.delay_s = 600.0
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        requests = [asyncio.create_task(client.get("/health/ready")) for _ in range(3)]
        first = asyncio.FIRST_COMPLETED
        done, waiting = await asyncio.wait(requests, timeout=30, return_when=first)
        assert [task.result().status_code for task in done] == [503]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        api.session.delay_s = 0.0
        assert (await client.get("/health/ready")).status_code == 200


def test_log_has_pseudonyms_and_no_user_ids(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="serve"):
        connect(name="shop").get("/v1/users/secret-user", headers={"X-Request-Id": "r1"})
    [line] = [record.getMessage() for record in caplog.records if record.name == "serve.guard"]
    assert "GET /v1/users/{user_id} 404" in line
    assert f"key=shop user={user_pseudonym('secret-user')} request=r1" in line
    # The test's own HTTP client logs the address where another test has set the root level.
    server_lines = [r.getMessage() for r in caplog.records if not r.name.startswith("httpx")]
    assert not any("secret-user" in message for message in server_lines)


def test_metrics_count_requests_by_route(connect: Connect) -> None:
    client = connect()
    client.get("/v1/users/42")
    client.get("/v1/users/nobody")
    client.get("/elsewhere/42")
    text = client.get("/metrics").text
    route = 'method="GET",route="/v1/users/{user_id}"'
    assert f'liveprofile_api_requests_total{{{route},status="200"}} 1.0' in text
    assert f'liveprofile_api_requests_total{{{route},status="404"}} 1.0' in text
    assert 'route="none",status="404"' in text
    assert "elsewhere" not in text
