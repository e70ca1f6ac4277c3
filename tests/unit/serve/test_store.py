"""Connections of the driver on the loop of the server, and reads that become one statement."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from threading import get_ident
from typing import Any, TypeVar

import pytest
import uvloop
from cassandra import ConsistencyLevel, ProtocolVersion
from cassandra.connection import ConnectionException, ConnectionShutdown, DefaultEndPoint
from cassandra.protocol import QueryMessage

from liveprofile.errors import ServiceError, ServiceUnavailableError
from serve.store.loop_connection import LoopConnection, LoopTimer, connection_on_this_loop
from serve.store.merged_reads import MergedReads
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


NEVER_S = 3_600.0


class Rows:
    """Statements that end when the test says so. The row of k is K; there is none of "absent"."""

    def __init__(self) -> None:
        self.statements: list[list[str]] = []
        self._answers: list[asyncio.Future[Exception | None]] = []

    async def read(self, keys: Sequence[str]) -> dict[str, str]:
        self.statements.append(list(keys))
        answer: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        if (error := await answer) is not None:
            raise error
        return {key: key.upper() for key in keys if key != "absent"}

    def end(self, number: int, error: Exception | None = None) -> None:
        self._answers[number].set_result(error)


def merged(
    rows: Rows,
    at_once: int = 1,
    most: int = 3,
    wait_s: float = NEVER_S,
    early_error_s: float = NEVER_S,
) -> MergedReads:
    return MergedReads(rows.read, at_once, most, wait_s, early_error_s)


async def asked(reads: MergedReads, *keys: str) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(reads.row(key)) for key in keys]
    await settled()
    return tasks


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@on_loop
async def test_nothing_waits_while_few_are_under_way() -> None:
    rows = Rows()
    tasks = await asked(merged(rows, at_once=2), "a", "b")
    assert rows.statements == [["a"], ["b"]]
    rows.end(1)
    rows.end(0)
    assert await asyncio.gather(*tasks) == ["A", "B"]


@on_loop
async def test_keys_that_wait_become_one_statement() -> None:
    rows = Rows()
    tasks = await asked(merged(rows), "a", "b", "absent", "b")
    assert rows.statements == [["a"]]
    rows.end(0)
    await settled()
    assert rows.statements == [["a"], ["b", "absent"]]
    rows.end(1)
    assert await asyncio.gather(*tasks) == ["A", "B", None, "B"]


@on_loop
async def test_a_statement_has_a_bounded_number_of_keys() -> None:
    rows = Rows()
    tasks = await asked(merged(rows, most=2), "a", "b", "c", "d")
    for number in range(3):
        rows.end(number)
        await settled()
    assert rows.statements == [["a"], ["b", "c"], ["d"]]
    assert await asyncio.gather(*tasks) == ["A", "B", "C", "D"]


@on_loop
async def test_a_statement_that_hangs_holds_up_no_others() -> None:
    rows = Rows()
    reads = merged(rows, wait_s=0.01)
    hanging, other = await asked(reads, "a", "b")
    while len(rows.statements) < 2:
        await asyncio.sleep(0.001)
    rows.end(1)
    assert await other == "B"
    assert not hanging.done()
    rows.end(0)
    assert await hanging == "A"


@on_loop
async def test_a_row_is_read_after_it_was_asked_for() -> None:
    rows = Rows()
    reads = merged(rows)
    first, second = await asked(reads, "a", "b")
    rows.end(0)
    await settled()
    [third] = await asked(reads, "b")  # the statement for the second has begun
    rows.end(1)
    await settled()
    assert rows.statements == [["a"], ["b"], ["b"]]
    rows.end(2)
    assert await asyncio.gather(first, second, third) == ["A", "B", "B"]


@on_loop
async def test_caller_that_leaves_ends_no_wait_of_others() -> None:
    rows = Rows()
    first, leaving, staying = await asked(merged(rows), "a", "b", "b")
    leaving.cancel()
    first.cancel()
    await settled()
    assert rows.statements == [["a"], ["b"]]
    rows.end(1)
    assert await staying == "B"
    with pytest.raises(asyncio.CancelledError):
        await leaving


@on_loop
async def test_keys_of_a_statement_that_fails_are_read_alone() -> None:
    rows = Rows()
    first, second, third = await asked(merged(rows), "a", "b", "c")
    rows.end(0, ServiceError("no replica of a"))
    await settled()
    rows.end(1, ServiceUnavailableError("no replica of b"))
    await settled()
    assert rows.statements == [["a"], ["b", "c"], ["b"], ["c"]]
    rows.end(2, ServiceUnavailableError("no replica of b"))
    rows.end(3)
    assert await third == "C"
    for failed, name in ((first, "a"), (second, "b")):
        with pytest.raises(ServiceError, match=f"no replica of {name}"):
            await failed


@on_loop
async def test_timeout_of_a_statement_is_that_of_its_keys() -> None:
    rows = Rows()
    reads = merged(rows, early_error_s=-1.0)
    first, second, third = await asked(reads, "a", "b", "c")
    rows.end(0)
    await settled()
    rows.end(1, ServiceUnavailableError("timed out"))
    for failed in (second, third):
        with pytest.raises(ServiceUnavailableError):
            await failed
    assert rows.statements == [["a"], ["b", "c"]] and await first == "A"
    [again] = await asked(reads, "b")
    rows.end(2)
    assert await again == "B"
