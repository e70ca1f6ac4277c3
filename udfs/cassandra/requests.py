"""Requests to Cassandra: many at once, retried while there is hope, never lost."""

from __future__ import annotations

import heapq
import itertools
import logging
import random
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

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

from liveprofile.config import CassandraSettings
from liveprofile.errors import StoreError
from liveprofile.storage.connection import describe

log = logging.getLogger(__name__)

# What passes by itself: a node that is slow, down, overloaded or about to be back.
PASSING = (
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
FIRST_DELAY_S, MAX_DELAY_S = 0.05, 2.0


def passing(error: BaseException) -> bool:
    """Whether sending the same request again may succeed."""
    if isinstance(error, NoHostAvailable):
        causes = list(error.errors.values()) if isinstance(error.errors, dict) else []
        return not causes or any(passing(cause) for cause in causes)
    return isinstance(error, PASSING)


def delay_s(attempts: int, jitter: float) -> float:
    """How long to wait before the next attempt after `attempts` failed; jitter in 0..1.

    Exponential with equal jitter (Brooker, "Exponential Backoff And Jitter", 2015).
    """
    longest = min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** min(attempts - 1, 16))
    return longest * (0.5 + 0.5 * jitter)


class _Request:
    __slots__ = ("attempts", "failing_since_s", "on_rows", "statement")

    def __init__(self, statement: Statement, on_rows: Callable[[Sequence[Any]], None] | None):
        self.statement = statement
        self.on_rows = on_rows
        self.attempts = 0
        self.failing_since_s: float | None = None


class Requests:
    """Sends statements with bounded concurrency.

    Only the owner's thread keeps the books; the driver's thread does no more than put answers in
    a queue. A failed request keeps its place among the open ones until it has succeeded, so
    trouble slows the owner down instead of piling up. Retries are sent from `submit` and `drain`.

    After a StoreError every call raises the same one again.
    """

    def __init__(self, session: Session, settings: CassandraSettings, kind: str):
        self._session, self._kind = session, kind
        # The driver's named tuples are a new class for every answer.
        self._profile = session.execution_profile_clone_update(
            EXEC_PROFILE_DEFAULT, row_factory=tuple_factory
        )
        self._in_flight = settings.in_flight
        self._give_up_after_s = settings.retry_timeout_ms / 1000
        # The driver answers every request within the time-out; silence beyond that is a fault.
        self._silence_s = self._give_up_after_s + 4 * settings.request_timeout_ms / 1000
        self._answers: SimpleQueue[tuple[_Request, Any, BaseException | None]] = SimpleQueue()
        self._retries: list[tuple[float, int, _Request]] = []
        self._numbers = itertools.count()
        self._open = 0
        self._last_answer_s = time.monotonic()
        self._failure: StoreError | None = None
        self.retried = 0

    def submit(
        self, statement: Statement, on_rows: Callable[[Sequence[Any]], None] | None = None
    ) -> None:
        """Sends; blocks while `in_flight` requests are open. `on_rows` gets a SELECT's tuples.

        Raises StoreError.
        """
        self._run_until_open_at_most(self._in_flight - 1)
        if self._open == 0:
            self._last_answer_s = time.monotonic()
        self._open += 1
        self._send(_Request(statement, on_rows))

    def drain(self) -> None:
        """Returns when every request has succeeded. Raises StoreError."""
        self._run_until_open_at_most(0)

    def _run_until_open_at_most(self, limit: int) -> None:
        if self._failure is not None:
            raise self._failure
        while self._open > limit:
            self._resend_due()
            try:
                request, rows, error = self._answers.get(timeout=self._patience_s())
            except Empty:
                self._check_silence()
                continue
            self._last_answer_s = time.monotonic()
            if error is None:
                self._open -= 1
                if request.on_rows is not None:
                    request.on_rows(rows or ())
            else:
                self._failed(request, error)

    def _send(self, request: _Request) -> None:
        future = self._session.execute_async(request.statement, execution_profile=self._profile)
        put = self._answers.put
        future.add_callbacks(
            callback=lambda rows: put((request, rows, None)),
            errback=lambda error: put((request, None, error)),
        )

    def _failed(self, request: _Request, error: BaseException) -> None:
        now_s = time.monotonic()
        request.attempts += 1
        if request.failing_since_s is None:
            request.failing_since_s = now_s
        if not passing(error):
            self._fail(f"refused: {describe(error)}")
        failing_s = now_s - request.failing_since_s
        if failing_s >= self._give_up_after_s:
            self._fail(
                f"kept failing for {failing_s:.1f} s in {request.attempts} attempts"
                f" (cassandra.retry_timeout_ms = {self._give_up_after_s * 1000:.0f}):"
                f" {describe(error)}"
            )
        if not self._retries:  # one line for an outage, not one for each request
            log.warning("Cassandra %s fails, retrying: %s", self._kind, describe(error))
        due_s = now_s + delay_s(request.attempts, random.random())
        heapq.heappush(self._retries, (due_s, next(self._numbers), request))

    def _resend_due(self) -> None:
        while self._retries and self._retries[0][0] <= time.monotonic():
            _, _, request = heapq.heappop(self._retries)
            self.retried += 1
            self._send(request)

    def _patience_s(self) -> float:
        if not self._retries:
            return 1.0
        return min(1.0, max(0.0, self._retries[0][0] - time.monotonic()))

    def _check_silence(self) -> None:
        silent_s = time.monotonic() - self._last_answer_s
        if silent_s > self._silence_s:
            self._fail(f"got no answer for {silent_s:.0f} s, not even a time-out")

    def _fail(self, reason: str) -> None:
        self._failure = StoreError(f"Cassandra {self._kind} {reason}")
        raise self._failure
