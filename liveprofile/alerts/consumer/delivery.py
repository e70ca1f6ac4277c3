"""Delivers an alert to each handler once, retries failures, and reports what finally failed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from cassandra.cluster import Session
from tenacity import (
    RetryCallState,
    RetryError,
    Retrying,
    retry_if_not_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)

from liveprofile.alerts.consumer.alert import Alert
from liveprofile.errors import ServiceError
from liveprofile.pseudonym import user_pseudonym
from liveprofile.rows.risk import ALERT_HANDLED
from liveprofile.storage.cql import execute, from_ms, now_ms

log = logging.getLogger(__name__)

# Duplicates of an alert arrive after a restart of the job, which replays its last minutes. A month
# also covers a topic that is read again from its beginning (topics.retention_ms is a week).
HANDLED_TTL_S = 30 * 86_400


class Handler(Protocol):
    """Acts on alerts.

    `name` identifies the handler within a consumer and must stay the same over restarts. `handle`
    returns when the alert is handled. It raises AlertRefused if a retry cannot help; any other
    exception is retried. It must be idempotent by `alert.id`: after a crash between its success
    and the record of that success it gets the same alert again. Several threads call it, but the
    alerts of one user come one at a time and in topic order.
    """

    @property
    def name(self) -> str: ...

    def handle(self, alert: Alert) -> None: ...


class AlertRefused(Exception):
    """Raised by a handler that will never accept this alert. It goes to the dead-letter topic."""


class ConsumerStopped(Exception):
    """The consumer stops while an alert waits for a retry. Its offset stays uncommitted."""


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential back-off with jitter: initial_wait_s, doubled each time up to max_wait_s."""

    attempts: int = 8
    initial_wait_s: float = 0.5
    max_wait_s: float = 30.0


class HandledStore:
    """Records in Cassandra which handler has handled which alert.

    The records survive restarts, and a consumer group shares them. Thread-safe.
    """

    def __init__(self, session: Session, group_id: str, ttl_s: int = HANDLED_TTL_S):
        self._session, self._group_id, self._ttl_s = session, group_id, ttl_s

    def has(self, alert_id: str, handler: str) -> bool:
        query = (
            "SELECT handled_at FROM alert_handled"
            " WHERE alert_id = %s AND consumer = %s AND handler = %s"
        )
        return execute(self._session, query, (alert_id, self._group_id, handler)).one() is not None

    def add(self, alert_id: str, handler: str) -> None:
        execute(
            self._session,
            ALERT_HANDLED.insert(self._ttl_s, time="", mark="%s"),
            (alert_id, self._group_id, handler, from_ms(now_ms())),
        )


class DeliveryFailure(NamedTuple):
    """Why an alert goes to the dead-letter topic."""

    handler: str
    reason: str  # REFUSED or HANDLER_FAILED
    detail: str


class Delivery:
    """Passes alerts to handlers. Setting `stop` ends the waits between attempts.

    count: adds to the counts of the consumer: handled and known alerts, retried attempts.
    """

    def __init__(
        self,
        handlers: Sequence[Handler],
        handled: HandledStore,
        retries: RetryPolicy,
        stop: threading.Event,
        count: Callable[..., None],
    ):
        self._handlers, self._handled, self._count = handlers, handled, count
        self._retries, self._stop = retries, stop

    def deliver(self, alert: Alert) -> list[DeliveryFailure]:
        """Passes the alert to each handler that has not handled it yet; returns the failures.

        A failed handler does not keep the others from their turn. Raises ConsumerStopped if the
        consumer stops first. Raises ServiceError if the project's own Kafka or Cassandra is down:
        the alert is not at fault, so it does not become a dead letter.
        """
        failures = []
        for handler in self._handlers:
            if self._retry(self._handled.has, alert.id, handler.name)[1]:
                self._count(known=1)
                continue
            started_s = time.monotonic()
            try:
                attempts, _ = self._retry(handler.handle, alert)
            except AlertRefused as error:
                failures.append(DeliveryFailure(handler.name, "REFUSED", _one_line(error)))
                continue
            except RetryError as error:
                cause = error.last_attempt.exception()
                self._count(retried=error.last_attempt.attempt_number - 1)
                failures.append(DeliveryFailure(handler.name, "HANDLER_FAILED", _one_line(cause)))
                continue
            self._retry(self._handled.add, alert.id, handler.name)
            self._count(handled=1, retried=attempts - 1)
            log.info(
                "alert %s of %s: %s took %.0f ms, attempt %d",
                alert.id,
                user_pseudonym(alert.user_id),
                handler.name,
                1_000 * (time.monotonic() - started_s),
                attempts,
            )
        return failures

    def _retry(self, call, *arguments) -> tuple[int, object]:
        """Returns (number of the successful attempt, its result). Raises what is not retried."""
        retrying = Retrying(
            retry=retry_if_not_exception_type((AlertRefused, ConsumerStopped)),
            stop=stop_after_attempt(self._retries.attempts),
            wait=wait_exponential_jitter(
                multiplier=self._retries.initial_wait_s,
                max=self._retries.max_wait_s,
                jitter=self._retries.initial_wait_s,
            ),
            sleep=self._sleep,
            before_sleep=_log_retry,
            retry_error_callback=_raise_last_error,
        )
        result = retrying(call, *arguments)
        return retrying.statistics["attempt_number"], result

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise ConsumerStopped


def _raise_last_error(state: RetryCallState) -> None:
    error = state.outcome.exception()
    if isinstance(error, ServiceError):
        raise error
    raise RetryError(state.outcome)


def _log_retry(state: RetryCallState) -> None:
    # Logs only the exception's class: the text of a shop's own error may contain the user id.
    log.warning(
        "attempt %d failed (%s), next attempt in %.1f s",
        state.attempt_number,
        type(state.outcome.exception()).__name__,
        state.next_action.sleep,
    )


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
