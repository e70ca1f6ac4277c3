"""One alert to its handlers: once each, again if that fails, and what is to be done in the end."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
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
from liveprofile.pseudonym import hashed
from liveprofile.storage.cql import execute, from_ms, now_ms

log = logging.getLogger(__name__)

# A copy of an alert comes within a restart or a replay of the job's last minutes; a month also
# covers a topic that is read again from its beginning (topics.retention_ms is a week).
REMEMBER_S = 30 * 86_400


class Handler(Protocol):
    """What acts on alerts.

    `name` tells handlers of one consumer apart and must stay the same over restarts. `handle`
    returns when the alert is dealt with. It raises Refused if trying again can't help; whatever
    else it raises is tried again. It may see an alert twice (a crash between its success and the
    note of it), so it must be harmless to repeat: go by `alert.id`. Several threads call it, but
    for one user one at a time, in the order of the topic.
    """

    @property
    def name(self) -> str: ...

    def handle(self, alert: Alert) -> None: ...


class Refused(Exception):
    """Raised by a handler: this alert will never be taken. It goes to the dead-letter topic."""


class Stopped(Exception):
    """The consumer stops while an alert waits to be tried again: it stays uncommitted."""


@dataclass(frozen=True)
class Retries:
    """Exponential back-off with jitter: about first_s, 2 x first_s, 4 x ..., at most longest_s."""

    attempts: int = 8
    first_s: float = 0.5
    longest_s: float = 30.0


class Handled(Protocol):
    """Which handler has dealt with which alert; shared by threads."""

    def has(self, alert_id: str, handler: str) -> bool: ...

    def add(self, alert_id: str, handler: str) -> None: ...


class CassandraHandled:
    """Survives restarts, and is shared by the members of a consumer group."""

    def __init__(self, session: Session, group_id: str, remember_s: int = REMEMBER_S):
        self._session, self._group_id, self._remember_s = session, group_id, remember_s

    def has(self, alert_id: str, handler: str) -> bool:
        query = (
            "SELECT handled_at FROM alert_handled"
            " WHERE alert_id = %s AND consumer = %s AND handler = %s"
        )
        return execute(self._session, query, (alert_id, self._group_id, handler)).one() is not None

    def add(self, alert_id: str, handler: str) -> None:
        execute(
            self._session,
            "INSERT INTO alert_handled (alert_id, consumer, handler, handled_at)"
            f" VALUES (%s, %s, %s, %s) USING TTL {self._remember_s:d}",
            (alert_id, self._group_id, handler, from_ms(now_ms())),
        )


class MemoryHandled:
    """Forgets all at a restart, and the oldest beyond `capacity`: for use without Cassandra."""

    def __init__(self, capacity: int = 100_000):
        self._capacity = capacity
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._lock = threading.Lock()

    def has(self, alert_id: str, handler: str) -> bool:
        with self._lock:
            return (alert_id, handler) in self._known

    def add(self, alert_id: str, handler: str) -> None:
        with self._lock:
            self._known[alert_id, handler] = None
            if len(self._known) > self._capacity:
                self._known.popitem(last=False)


class Failure(NamedTuple):
    """Why an alert goes to the dead-letter topic."""

    handler: str
    reason: str  # REFUSED or HANDLER_FAILED
    detail: str


class Outcome(NamedTuple):
    handled: int  # handlers that have dealt with it now
    known: int  # and those that had before
    retried: int  # attempts beyond the first
    failures: list[Failure]


class Delivery:
    """Hands alerts to handlers. `stop`: ends waits between attempts."""

    def __init__(
        self,
        handlers: Sequence[Handler],
        handled: Handled,
        retries: Retries,
        stop: threading.Event,
    ):
        self._handlers, self._handled = handlers, handled
        self._retries, self._stop = retries, stop

    def deliver(self, alert: Alert) -> Outcome:
        """Hands the alert to each handler that hasn't dealt with it.

        One handler's failure keeps no other from its turn. Raises Stopped if the consumer stops
        first, and ServiceError if what is down is our Kafka or Cassandra: no alert's fault, so
        none is put aside for it.
        """
        handled = known = retried = 0
        failures = []
        for handler in self._handlers:
            if self._retry(self._handled.has, alert.id, handler.name)[1]:
                known += 1
                continue
            started_s = time.monotonic()
            try:
                attempts, _ = self._retry(handler.handle, alert)
            except Refused as error:
                failures.append(Failure(handler.name, "REFUSED", _line(error)))
                continue
            except RetryError as error:
                cause = error.last_attempt.exception()
                retried += error.last_attempt.attempt_number - 1
                failures.append(Failure(handler.name, "HANDLER_FAILED", _line(cause)))
                continue
            self._retry(self._handled.add, alert.id, handler.name)
            handled += 1
            retried += attempts - 1
            log.info(
                "alert %s of %s: %s took %.0f ms, attempt %d",
                alert.id, hashed(alert.user_id), handler.name,
                1_000 * (time.monotonic() - started_s), attempts,
            )  # fmt: skip
        return Outcome(handled, known, retried, failures)

    def _retry(self, call, *arguments) -> tuple[int, object]:
        """(the attempt that succeeded, its result). Raises what can't be tried again."""
        retrying = Retrying(
            retry=retry_if_not_exception_type((Refused, Stopped)),
            stop=stop_after_attempt(self._retries.attempts),
            wait=wait_exponential_jitter(
                multiplier=self._retries.first_s,
                max=self._retries.longest_s,
                jitter=self._retries.first_s,
            ),
            sleep=self._sleep,
            before_sleep=_log_retry,
            retry_error_callback=_give_up,
        )
        result = retrying(call, *arguments)
        return retrying.statistics["attempt_number"], result

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped


def _give_up(state: RetryCallState) -> None:
    error = state.outcome.exception()
    if isinstance(error, ServiceError):
        raise error
    raise RetryError(state.outcome)


def _log_retry(state: RetryCallState) -> None:
    # The kind only: the text of a shop's own error may name the user.
    log.warning(
        "attempt %d failed (%s), the next in %.1f s",
        state.attempt_number, type(state.outcome.exception()).__name__, state.next_action.sleep,
    )  # fmt: skip


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
