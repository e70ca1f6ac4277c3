"""Reads of single rows that become one statement while the store is busy."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from liveprofile.errors import ServiceError, ServiceUnavailableError
from serve.store.merged_reads import MergedReads
from tests.support.event_loop import on_loop

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


def merged(rows: Rows, at_once: int = 1, most: int = 3, wait_s: float = NEVER_S) -> MergedReads:
    return MergedReads(rows.read, at_once, most, wait_s)


async def asked(reads: MergedReads, *keys: str) -> list[asyncio.Task[Any]]:
    tasks = []
    for key in keys:
        tasks.append(asyncio.create_task(reads.row(key)))
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
async def test_keys_that_wait_become_statements_of_a_bounded_number_of_keys() -> None:
    rows = Rows()
    tasks = await asked(merged(rows, most=2), "a", "b", "absent", "b", "d")
    assert rows.statements == [["a"]]
    for number in range(3):
        rows.end(number)
        await settled()
    assert rows.statements == [["a"], ["b", "absent"], ["d"]]
    assert await asyncio.gather(*tasks) == ["A", "B", None, "B", "D"]


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
    rows.end(0)
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
