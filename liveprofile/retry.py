"""The one retry policy of commands that read from services.

A read is repeated with growing pauses while its service does not answer in time, until a deadline.
Writes of the job have a policy of their own (udfs/cassandra/executor.py).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from liveprofile.errors import ServiceError, ServiceUnavailableError

Result = TypeVar("Result")

DEADLINE_S = 30.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 3.0


def _is_unavailable(error: BaseException) -> bool:
    return isinstance(error, ServiceUnavailableError)


# The deadline of reads that name none.
_default_deadline_s: ContextVar[float] = ContextVar("deadline_s", default=DEADLINE_S)
NEVER = Event()
_given_up: ContextVar[Event] = ContextVar("given_up", default=NEVER)


@contextmanager
def default_deadline(deadline_s: float, given_up: Event = NEVER) -> Iterator[None]:
    """Within the with block, reads that name no deadline have this one instead of DEADLINE_S.

    For callers that must answer sooner than a command. It holds for this thread or task only.
    given_up: when another thread sets it, the next read raises ServiceError.
    """
    tokens = _default_deadline_s.set(deadline_s), _given_up.set(given_up)
    try:
        yield
    finally:
        _default_deadline_s.reset(tokens[0])
        _given_up.reset(tokens[1])


def until_deadline(
    read: Callable[[], Result],
    deadline_s: float | None = None,
    is_retryable: Callable[[BaseException], bool] = _is_unavailable,
) -> Result:
    """Returns what `read` returns. Raises its last error when the deadline has passed."""
    given_up = _given_up.get()

    def attempt() -> Result:
        if given_up.is_set():
            raise ServiceError("nobody waits for the answer any more")
        return read()

    attempts = Retrying(
        retry=retry_if_exception(is_retryable),
        stop=stop_after_delay(_default_deadline_s.get() if deadline_s is None else deadline_s),
        wait=wait_random_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S),
        reraise=True,
    )
    return attempts(attempt)
