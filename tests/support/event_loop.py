"""Tests as coroutines, on the kind of loop that uvicorn runs the server on."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

LONGEST_S = 60.0


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A decorator: the test ends after LONGEST_S at the latest."""

    @functools.wraps(test)
    def run(*args: Any, **options: Any) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(asyncio.wait_for(test(*args, **options), LONGEST_S))

    return run
