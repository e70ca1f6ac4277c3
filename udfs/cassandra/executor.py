"""Executes Cassandra statements concurrently and retries those that fail."""

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, NoReturn

from cassandra import CoordinationFailure, OperationTimedOut, Timeout, Unavailable
from cassandra.cluster import EXEC_PROFILE_DEFAULT, NoHostAvailable, Session
from cassandra.connection import ConnectionException
from cassandra.protocol import (
    IsBootstrappingErrorMessage,
    OverloadedErrorMessage,
    ServerError,
    TruncateError,
)
from cassandra.query import Statement, tuple_factory

from liveprofile.errors import StoreError
from liveprofile.settings import CassandraSettings
from liveprofile.storage.connection import describe_error
from liveprofile.storage.cql import MAX_IN_FLIGHT

log = logging.getLogger(__name__)

# Temporary errors: a node is slow, down, overloaded or starting.
RETRYABLE_ERRORS = (
    OSError,
    OperationTimedOut,
    Timeout,
    Unavailable,
    CoordinationFailure,
    ConnectionException,
    OverloadedErrorMessage,
    IsBootstrappingErrorMessage,
    TruncateError,
    ServerError,
)
FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.05, 2.0


def is_retryable(error: BaseException) -> bool:
    """Returns whether the same request may succeed later."""
    if isinstance(error, NoHostAvailable):
        causes = list(error.errors.values()) if isinstance(error.errors, dict) else []
        return not causes or any(is_retryable(cause) for cause in causes)
    return isinstance(error, RETRYABLE_ERRORS)


def backoff_s(attempts: int, jitter: float) -> float:
    """Returns the pause before the next attempt after `attempts` failed; jitter in 0..1.

    Exponential backoff with equal jitter (Brooker, "Exponential Backoff And Jitter", 2015).
    """
    longest = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(attempts - 1, 16))
    return longest * (0.5 + 0.5 * jitter)


@dataclass(slots=True, eq=False)
class _Request:
    statement: Statement
    on_rows: Callable[[Sequence[Any]], None] | None
    attempts: int = 0
    failing_since_s: float = 0.0


class StatementExecutor:
    """Executes statements with at most MAX_IN_FLIGHT requests at once.

    All bookkeeping happens in the owner's thread; the driver's thread only puts answers in a
    queue. A failed request stays among the open ones until it succeeds, so failures slow the owner
    down and no backlog builds up. `submit` and `drain` send the failed ones again, together, when
    no other request is under way.

    A request that fails for `cassandra.retry_timeout_ms`, or with an error that is not retryable,
    raises StoreError; after that every call raises the same error.

    kind: "read" or "write", for messages.
    """

    def __init__(self, session: Session, settings: CassandraSettings, kind: str):
        self._session, self._kind = session, kind
        # The driver's default, named tuples, makes a new class for every answer.
        self._profile = session.execution_profile_clone_update(
            EXEC_PROFILE_DEFAULT, row_factory=tuple_factory
        )
        self._retry_timeout_s = settings.retry_timeout_ms / 1000
        # The driver answers every request within its time-out, so longer silence is a fault.
        self._max_silence_s = self._retry_timeout_s + 4 * settings.request_timeout_ms / 1000
        self._answers: SimpleQueue[tuple[_Request, Any, BaseException | None]] = SimpleQueue()
        self._failed: list[_Request] = []
        self._open = 0
        self._failure: StoreError | None = None
        self.retried = 0

    def submit(
        self, statement: Statement, on_rows: Callable[[Sequence[Any]], None] | None = None
    ) -> None:
        """Sends a statement; blocks while MAX_IN_FLIGHT requests are open. Raises StoreError.

        on_rows: called with the tuples that a SELECT returns.
        """
        self._wait_until_open_at_most(MAX_IN_FLIGHT - 1)
        self._open += 1
        self._send(_Request(statement, on_rows))

    def drain(self) -> None:
        """Returns when every request has succeeded. Raises StoreError."""
        self._wait_until_open_at_most(0)

    def _wait_until_open_at_most(self, limit: int) -> None:
        if self._failure is not None:
            raise self._failure
        while self._open > limit:
            if len(self._failed) == self._open:
                self._retry()
            try:
                request, rows, error = self._answers.get(timeout=self._max_silence_s)
            except Empty:
                self._fail(f"got no answer for {self._max_silence_s:.0f} s, not even a time-out")
            if error is not None:
                self._note_failure(request, error)
                continue
            self._open -= 1
            if request.on_rows is not None:
                request.on_rows(rows or ())

    def _retry(self) -> None:
        failed, self._failed = self._failed, []
        time.sleep(backoff_s(min(each.attempts for each in failed), random.random()))
        for request in failed:
            self.retried += 1
            self._send(request)

    def _send(self, request: _Request) -> None:
        future = self._session.execute_async(request.statement, execution_profile=self._profile)
        put = self._answers.put
        future.add_callbacks(
            callback=lambda rows: put((request, rows, None)),
            errback=lambda error: put((request, None, error)),
        )

    def _note_failure(self, request: _Request, error: BaseException) -> None:
        now_s = time.monotonic()
        if not request.attempts:
            request.failing_since_s = now_s
        request.attempts += 1
        if not is_retryable(error):
            self._fail(f"refused: {describe_error(error)}")
        failing_s = now_s - request.failing_since_s
        if failing_s >= self._retry_timeout_s:
            self._fail(
                f"kept failing for {failing_s:.1f} s in {request.attempts} attempts"
                f" (cassandra.retry_timeout_ms = {self._retry_timeout_s * 1000:.0f}):"
                f" {describe_error(error)}"
            )
        if not self._failed:  # one line for each round of retries, not for each request
            log.warning("Cassandra %s fails, retrying: %s", self._kind, describe_error(error))
        self._failed.append(request)

    def _fail(self, reason: str) -> NoReturn:
        self._failure = StoreError(f"Cassandra {self._kind} {reason}")
        raise self._failure
