"""Connections of the driver on an event loop, against a node that speaks as much as they need."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from threading import get_ident
from typing import Any, TypeVar

import pytest
import uvloop
from cassandra import ConsistencyLevel, ProtocolVersion
from cassandra.connection import ConnectionException, ConnectionShutdown, DefaultEndPoint
from cassandra.protocol import QueryMessage

from serve.store.loop_connection import LoopConnection, LoopTimer, connection_on_this_loop
from tests.support.event_loop import on_loop

OPTIONS, STARTUP, QUERY = 5, 1, 7
READY, SUPPORTED, RESULT = 2, 6, 8
VOID = struct.pack(">i", 1)
LONG_S = 30.0
Result = TypeVar("Result")
QUESTION = QueryMessage("SELECT 1", ConsistencyLevel.ONE)


class Node:
    """Answers the first messages of a connection and then each query, or closes it (`deaf`)."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.deaf = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listening.accept()
        # The driver's side may close at any time.
        with (
            contextlib.suppress(ConnectionError),
            connection,
            connection.makefile("rb") as received,
        ):
            while head := received.read(9):
                _, _, stream, opcode, length = struct.unpack(">BBhBi", head)
                received.read(length)
                if opcode == QUERY and self.deaf:
                    return
                kind, body = {
                    OPTIONS: (SUPPORTED, _multimap(CQL_VERSION=["3.4.7"], COMPRESSION=[])),
                    STARTUP: (READY, b""),
                    QUERY: (RESULT, VOID),
                }[opcode]
                answer = struct.pack(">BBhBi", 0x84, 0, stream, kind, len(body)) + body
                # In two parts, as a network may deliver it.
                connection.sendall(answer[:5])
                connection.sendall(answer[5:])

    def close(self) -> None:
        self._listening.close()
        self._thread.join(LONG_S)


def _text(value: str) -> bytes:
    return struct.pack(">H", len(value)) + value.encode()


def _multimap(**values: list[str]) -> bytes:
    parts = [struct.pack(">H", len(values))]
    for name, texts in values.items():
        parts += [_text(name), struct.pack(">H", len(texts)), *map(_text, texts)]
    return b"".join(parts)


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.close()


async def connected(node: Node) -> LoopConnection:
    """A connection that is ready for queries, made in a thread as the driver does."""
    kind = connection_on_this_loop()
    return await asyncio.to_thread(
        kind.factory,
        DefaultEndPoint("127.0.0.1", node.port),
        LONG_S,
        protocol_version=ProtocolVersion.V4,
        compression=False,
    )


async def ask(connection: LoopConnection) -> tuple[Any, int]:
    """What the node answers, and the thread that got it."""
    answer: asyncio.Future[tuple[Any, int]] = asyncio.get_running_loop().create_future()
    connection.send_msg(
        QUESTION,
        connection.get_request_id(),
        lambda response: answer.set_result((response, get_ident())),
    )
    async with asyncio.timeout(LONG_S):
        return await answer


@on_loop
async def test_answers_arrive_in_the_thread_of_the_loop(node: Node) -> None:
    connection = await connected(node)
    for _ in range(3):
        response, thread = await ask(connection)
        assert not isinstance(response, Exception)
        assert thread == get_ident()
    connection.close()
    assert connection.is_closed


@on_loop
async def test_another_thread_may_wait_for_an_answer(node: Node) -> None:
    connection = await connected(node)
    response = await asyncio.to_thread(connection.wait_for_response, QUESTION, LONG_S)
    assert response is not None
    await asyncio.to_thread(connection.close)


@on_loop
async def test_requests_fail_when_the_node_closes_the_connection(node: Node) -> None:
    connection = await connected(node)
    node.deaf = True
    response, _ = await ask(connection)
    assert isinstance(response, ConnectionException)
    assert connection.is_closed


@on_loop
async def test_close_fails_the_requests_under_way(node: Node) -> None:
    connection = await connected(node)
    failed: list[Any] = []
    connection.send_msg(QUESTION, connection.get_request_id(), failed.append)
    connection.close()
    assert [type(error) for error in failed] == [ConnectionShutdown]


@on_loop
async def test_node_that_refuses_the_connection_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    kind = connection_on_this_loop()
    with pytest.raises(OSError):
        await asyncio.to_thread(kind.factory, DefaultEndPoint("127.0.0.1", port), LONG_S)


def test_connection_outlives_its_loop_without_an_error(node: Node) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        connection = runner.run(connected(node))
    connection.push(b"late")
    connection.close()
    assert connection.is_closed


@pytest.mark.parametrize("in_loop", [True, False])
@on_loop
async def test_timer_fires_unless_it_is_cancelled(in_loop: bool) -> None:
    fired: list[str] = []
    kind, done = connection_on_this_loop(), asyncio.Event()

    def start() -> list[LoopTimer]:
        timers = [
            kind.create_timer(0.0, lambda: fired.append("cancelled")),
            kind.create_timer(0.01, lambda: fired.append("fired")),
            kind.create_timer(0.02, done.set),
        ]
        timers[0].cancel()
        return timers

    if in_loop:
        start()
    else:
        await asyncio.to_thread(start)
    async with asyncio.timeout(LONG_S):
        await done.wait()
    assert fired in (["fired"], ["cancelled", "fired"] if not in_loop else ["fired"])
