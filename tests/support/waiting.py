"""Waits for what other processes or threads do."""

import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


def until(
    answer: Callable[[], Answer], timeout_s: float = 60.0, poll_s: float = 0.05, why: str = ""
) -> Answer:
    """The first answer that is not empty. Raises AssertionError, which says `why`, without one."""
    deadline_s = time.monotonic() + timeout_s
    while not (found := answer()):
        assert time.monotonic() < deadline_s, why or answer
        time.sleep(poll_s)
    return found
