"""The load of the read API benchmark: errors there falsify its results."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.serve import (
    BATCH_USERS,
    Connections,
    Measured,
    measure,
    plan_requests,
    request_content,
)

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def test_requests_are_planned_at_their_rates_and_in_order() -> None:
    planned = plan_requests(["a", "b"], 200, 10, 20)
    times = [request.at_s for request in planned]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] < 20
    kinds = [request.kind for request in planned]
    assert kinds.count("single") == pytest.approx(4_000, rel=0.1)
    assert kinds.count("batch") == pytest.approx(200, rel=0.3)
    assert plan_requests(["a"], 0, 0, 20) == []


def test_contents_are_complete_requests() -> None:
    assert request_content(["u1"]).startswith(b"GET /v1/users/u1 HTTP/1.1\r\n")
    head, _, body = request_content(["u1"] * BATCH_USERS).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head


def measured_on(delay_s: float, seconds: float = 0.5) -> Measured:
    """Measures 100 requests a second on a server that answers one connection after the other."""

    async def run() -> Measured:
        lock = asyncio.Lock()
        opened: list[asyncio.StreamWriter] = []
        closed: list[asyncio.StreamWriter] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            opened.append(writer)
            try:
                while True:
                    await reader.readuntil(b"\r\n\r\n")
                    async with lock:
                        await asyncio.sleep(delay_s)
                    writer.write(ANSWER)
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()
                closed.append(writer)

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            result = await measure(
                f"http://127.0.0.1:{port}", plan_requests(["u"], 100, 0, seconds)
            )
            while len(closed) < len(opened):
                await asyncio.sleep(0.01)
            return result

    return asyncio.run(run())


@pytest.mark.slow
def test_latency_counts_from_the_planned_time() -> None:
    fast = measured_on(0.0)
    assert set(fast.statuses) == {"200"}
    # 100 requests a second of 20 ms each queue up: a closed loop would report about 20 ms.
    slow = measured_on(0.02)
    assert slow.statuses["200"] == len(slow.latency_ms["single"]) == fast.statuses["200"]
    assert max(slow.latency_ms["single"]) > 200


def test_refused_connection_is_counted() -> None:
    result = asyncio.run(measure("http://127.0.0.1:1", plan_requests(["u"], 50, 0, 0.2)))
    assert set(result.statuses) == {"ConnectionRefusedError"}


def test_connection_that_the_server_has_closed_is_not_used_again() -> None:
    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        writer.close()
        await writer.wait_closed()

    async def run() -> list[int]:
        async with await asyncio.start_server(answer_once, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            connections = Connections(f"http://127.0.0.1:{port}")
            statuses = []
            for _ in range(3):
                statuses.append(await connections.send(request_content(["u"])))
                await asyncio.sleep(0.1)  # until the end of the connection has arrived
            await connections.close()
            return statuses

    assert asyncio.run(run()) == [200, 200, 200]
