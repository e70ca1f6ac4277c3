"""The one retry policy of commands that read from services.

A read is repeated with growing pauses while its service does not answer in time, until a deadline.
Writes of the job have a policy of their own (udfs/cassandra/executor.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from liveprofile.errors import ServiceUnavailableError

Result = TypeVar("Result")

DEADLINE_S = 30.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 3.0


def _is_unavailable(error: BaseException) -> bool:
    return isinstance(error, ServiceUnavailableError)


def until_deadline(
    read: Callable[[], Result],
    deadline_s: float = DEADLINE_S,
    is_retryable: Callable[[BaseException], bool] = _is_unavailable,
) -> Result:
    """Returns what `read` returns. Raises its last error when the deadline has passed."""
    attempts = Retrying(
        retry=retry_if_exception(is_retryable),
        stop=stop_after_delay(deadline_s),
        wait=wait_random_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S),
        reraise=True,
    )
    return attempts(read)
