"""The one retry policy of commands that read from services.

A read is repeated while it fails for a passing reason, with growing pauses, until a deadline. What
is passing is for the caller to say: a timeout, not a missing table. Writes of the job have a policy
of their own (udfs/cassandra/executor.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

Result = TypeVar("Result")

DEADLINE_S = 30.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 3.0


def until_deadline(
    read: Callable[[], Result],
    is_passing: Callable[[BaseException], bool],
    deadline_s: float = DEADLINE_S,
) -> Result:
    """Returns what `read` returns. Raises its last error when the deadline has passed."""
    attempts = Retrying(
        retry=retry_if_exception(is_passing),
        stop=stop_after_delay(deadline_s),
        wait=wait_random_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S),
        reraise=True,
    )
    return attempts(read)
