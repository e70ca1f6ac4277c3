"""Merges reads of single rows while the store is busy.

A statement for one row costs the API and Cassandra several times as much as a row of a statement
for many. So while enough statements are under way, the keys that are asked for wait and become one
statement; with less load nothing waits. This is the group commit of databases, for reads (DeWitt
and others, "Implementation techniques for main memory database systems", SIGMOD 1984).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

from liveprofile.errors import ServiceError

# An error that comes later is a timeout: a second statement would come too late.
EARLY_ERROR_S = 0.1

Row = TypeVar("Row")
Read = Callable[[Sequence[str]], Awaitable[Mapping[str, Row]]]


class MergedReads(Generic[Row]):
    """Reads rows by key with `read`, which returns those that exist.

    at_once: statements under way before keys wait. most: keys of a statement. longest_wait_s: a
    key waits no longer, so that statements that hang hold up no others. early_error_s: the keys of
    a statement that fails within it are read alone.
    """

    def __init__(
        self,
        read: Read[Row],
        at_once: int,
        most: int,
        longest_wait_s: float,
        early_error_s: float = EARLY_ERROR_S,
    ):
        self._read, self._at_once, self._most = read, at_once, most
        self._early_error_s = early_error_s
        self._longest_wait_s = longest_wait_s
        self._under_way = 0
        self._waiting: dict[str, asyncio.Future[Row | None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def row(self, key: str) -> Row | None:
        """The row, read after this call; None if there is none. Raises what `read` raises."""
        if self._under_way < self._at_once and not self._waiting:
            return await self._row_alone(key)
        loop = asyncio.get_running_loop()
        if key not in self._waiting:
            self._waiting[key] = loop.create_future()
        if self._timer is None:
            self._timer = loop.call_later(self._longest_wait_s, self._start)
        # A caller that leaves must not end the wait of another one for the same key.
        return await asyncio.shield(self._waiting[key])

    async def _row_alone(self, key: str) -> Row | None:
        self._under_way += 1
        try:
            return (await self._read([key])).get(key)
        finally:
            self._ended()

    def _ended(self) -> None:
        self._under_way -= 1
        if self._waiting and self._under_way < self._at_once:
            self._start()

    def _start(self) -> None:
        """Reads the keys that wait, the oldest first."""
        keys = list(self._waiting)[: self._most]
        waiting = {key: self._waiting.pop(key) for key in keys}
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_later(self._longest_wait_s, self._start)
        self._under_way += 1
        task = asyncio.create_task(self._answer(waiting))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, waiting: dict[str, asyncio.Future[Row | None]]) -> None:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        try:
            rows = await self._read(list(waiting))
        except ServiceError as error:
            if len(waiting) == 1 or loop.time() - started_s > self._early_error_s:
                _fail(waiting, error)
            else:
                # The replicas of one key may be down: the others have their rows.
                await asyncio.gather(*(self._answer_alone(*each) for each in waiting.items()))
        except BaseException as error:
            _fail(waiting, error)
            raise
        else:
            for key, answer in waiting.items():
                answer.done() or answer.set_result(rows.get(key))
        finally:
            self._ended()

    async def _answer_alone(self, key: str, answer: asyncio.Future[Row | None]) -> None:
        try:
            rows = await self._read([key])
        except ServiceError as error:
            _fail({key: answer}, error)
        else:
            answer.done() or answer.set_result(rows.get(key))


def _fail(waiting: Mapping[str, asyncio.Future[Row | None]], error: BaseException) -> None:
    for answer in waiting.values():
        if not answer.done():
            answer.set_exception(error)
