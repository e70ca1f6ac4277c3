"""Merges reads of single rows while the store is busy.

A statement for one row costs the API and Cassandra several times as much as a row of a statement
for many. So while enough statements are under way, the keys that are asked for wait and become one
statement; with less load nothing waits. This is the group commit of databases, for reads (DeWitt
and others, "Implementation techniques for main memory database systems", SIGMOD 1984).
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Generic, TypeVar

from liveprofile.errors import ServiceError

Row = TypeVar("Row")


class MergedReads(Generic[Row]):
    """Reads rows by key with `read`, which returns those that exist.

    at_once: statements under way before keys wait. most: keys of a statement. longest_wait_s: a
    key waits no longer, so that statements that hang hold up no others.
    """

    def __init__(
        self,
        read: Callable[[Sequence[str]], Awaitable[Mapping[str, Row]]],
        at_once: int,
        most: int,
        longest_wait_s: float,
    ):
        self._read, self._most, self._longest_wait_s = read, most, longest_wait_s
        self._free = asyncio.Semaphore(at_once)
        self._waiting: dict[str, asyncio.Future[Row | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def row(self, key: str) -> Row | None:
        """The row, read after this call; None if there is none. Raises what `read` raises."""
        if key not in self._waiting:
            self._waiting[key] = asyncio.get_running_loop().create_future()
            if len(self._waiting) == 1:
                self._start(self._read_group())
        # A caller that leaves must not end the wait of another one for the same key.
        return await asyncio.shield(self._waiting[key])

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read_group(self) -> None:
        """Waits for its turn, then reads the keys that wait, the oldest first."""
        has_turn = False
        with suppress(TimeoutError):
            async with asyncio.timeout(self._longest_wait_s):
                has_turn = await self._free.acquire()
        keys = list(islice(self._waiting, self._most))
        group = {key: self._waiting.pop(key) for key in keys}
        if self._waiting:
            self._start(self._read_group())
        try:
            await self._answer(group)
        finally:
            if has_turn:
                self._free.release()

    async def _answer(self, group: Mapping[str, asyncio.Future[Row | None]]) -> None:
        try:
            rows = await self._read(list(group))
        except ServiceError as error:
            if len(group) == 1:
                _fail(group, error)
            else:  # the replicas of one key may be down: the others have their rows
                await asyncio.gather(*(self._answer({key: group[key]}) for key in group))
        except BaseException as error:
            _fail(group, error)
            raise
        else:
            for key, answer in group.items():
                answer.done() or answer.set_result(rows.get(key))


def _fail(group: Mapping[str, asyncio.Future[Any]], error: BaseException) -> None:
    for answer in group.values():
        answer.done() or answer.set_exception(error)
