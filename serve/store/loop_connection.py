"""Connections of the Cassandra driver on the event loop of the server.

The driver's own connections read and write in a thread of theirs. A request then wakes that thread
twice and the server once, and the two compete for the interpreter, which costs more CPU time than
the request itself. Here the loop that parses a request also sends the statement and reads its rows.

The driver may connect, prepare and close from any thread but the loop's, because it waits for
answers that the loop reads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from threading import get_ident
from typing import Any, ClassVar

from cassandra.connection import Connection, ConnectionShutdown

# Before the driver's own limit for a connection, so that its message names the node.
ATTACH_TIMEOUT_S = 4.0


class LoopConnection(Connection):
    """A connection whose socket `loop` reads and writes; made by `connection_on_this_loop`."""

    loop: ClassVar[asyncio.AbstractEventLoop]
    loop_thread: ClassVar[int]  # id of the thread that runs the loop

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._transport: asyncio.Transport | None = None
        self._connect_socket()
        self._socket.setblocking(False)
        attached = asyncio.run_coroutine_threadsafe(self._attach(), self.loop)
        try:
            attached.result(ATTACH_TIMEOUT_S)
        except BaseException:
            attached.cancel()
            self._socket.close()
            raise
        self._send_options_message()

    @classmethod
    def create_timer(cls, timeout: float, callback: Callable[[], object]) -> LoopTimer:
        return LoopTimer(cls, timeout, callback)

    @classmethod
    def run(cls, work: Callable[..., object], *args: Any) -> None:
        """Runs `work` in the thread of the loop, now if it is this one; an ended loop runs none."""
        if cls.loop.is_closed():
            return
        if get_ident() == cls.loop_thread:
            work(*args)
        else:
            with contextlib.suppress(RuntimeError):  # it was closed meanwhile
                cls.loop.call_soon_threadsafe(work, *args)

    def push(self, data: bytes) -> None:
        """Sends; the driver calls it from any thread."""
        self.run(self._write, data)

    def close(self) -> None:
        with self.lock:
            if self.is_closed:
                return
            self.is_closed = True
        if self.loop.is_closed():
            self._socket.close()
        else:
            self.run(self._close_transport)
        if not self.is_defunct:  # then its requests have failed already
            self.error_all_requests(ConnectionShutdown(f"Connection to {self.endpoint} was closed"))
            self.connected_event.set()

    def received(self, data: bytes) -> None:
        """Called with what the socket has read."""
        self._iobuf.write(data)
        self.process_io_buffer()

    def lost(self, error: Exception | None) -> None:
        """Called when the socket is closed, by the node or by `close`."""
        if error is None:
            self.close()
        else:
            self.defunct(error)

    async def _attach(self) -> None:
        self._transport, _ = await self.loop.create_connection(
            lambda: _Reader(self), sock=self._socket
        )

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _close_transport(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class _Reader(asyncio.Protocol):
    def __init__(self, connection: LoopConnection):
        self._connection = connection

    def data_received(self, data: bytes) -> None:
        self._connection.received(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._connection.lost(error)


class LoopTimer:
    """A timer of the driver. `timeout`: seconds."""

    def __init__(self, kind: type[LoopConnection], timeout: float, callback: Callable[[], object]):
        self._kind, self._callback = kind, callback
        self._handle: asyncio.TimerHandle | None = None
        self._cancelled = False
        kind.run(self._start, timeout)

    def cancel(self) -> None:
        self._cancelled = True
        self._kind.run(self._stop)

    def _start(self, timeout: float) -> None:
        if not self._cancelled:
            self._handle = self._kind.loop.call_later(timeout, self._callback)

    def _stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


def connection_on_this_loop() -> type[LoopConnection]:
    """The class of connections on the running event loop, for `Cluster(connection_class=...)`."""
    return type(
        "LoopConnection",
        (LoopConnection,),
        {"loop": asyncio.get_running_loop(), "loop_thread": get_ident()},
    )
