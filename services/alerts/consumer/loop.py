"""The consumer of the topic risk-alerts: at-least-once delivery, in order for each user.

It handles one alert at a time and commits its offset when every handler has handled it or it is in
the dead-letter topic. So no alert is lost, and after a crash the last one comes again. A handler's
success is recorded after it returns (`HandledStore`), and an alert that comes again is skipped.
Several consumers of one group share the partitions.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol, Self, TypeVar

from cassandra.cluster import Session
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_not_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)

from liveprofile.errors import ServiceError
from liveprofile.kafka import offsets
from liveprofile.kafka.connection import client_config
from liveprofile.kafka.records import commit_unless_reassigned, send_all, truncated
from liveprofile.kafka.topics import create_topics, topic_configs
from liveprofile.pseudonym import user_pseudonym
from liveprofile.rows.risk import ALERT_HANDLED
from liveprofile.rules.flags import Severity
from liveprofile.settings import Settings
from liveprofile.storage.cql import execute, from_ms, now_ms, to_ms
from liveprofile.storage.erasures import erased_before_ms
from services.alerts.consumer.alert import Alert, InvalidAlertError, read_alert

log = logging.getLogger(__name__)

Result = TypeVar("Result")

GROUP_ID = "liveprofile-alerts"
POLL_S = 0.1
# For one alert, with all attempts of all handlers. Then the group gives the partition to another.
MAX_HANDLING_MS = 900_000
# Duplicates of an alert arrive after a restart of the job, which replays its last minutes. A month
# also covers a topic that is read again from its beginning (topics.retention_ms is a week).
HANDLED_TTL_S = 30 * 86_400


class AlertRefusedError(Exception):
    """Raised by a handler that will never accept this alert. It goes to the dead-letter topic."""


class ConsumerStoppedError(Exception):
    """The consumer stops while an alert waits for a retry. Its offset stays uncommitted."""


class Handler(Protocol):
    """Acts on alerts.

    `name` identifies the handler within a consumer and must stay the same over restarts. `handle`
    returns when the alert is handled. It raises AlertRefusedError if a retry cannot help; any other
    exception is retried. It must be idempotent by `alert.id`: after a crash between its success
    and the record of that success it gets the same alert again.
    """

    @property
    def name(self) -> str: ...

    def handle(self, alert: Alert) -> None: ...


class RetryPolicy(NamedTuple):
    """Exponential back-off with jitter: initial_wait_s, doubled each time up to max_wait_s."""

    attempts: int = 8
    initial_wait_s: float = 0.5
    max_wait_s: float = 30.0


class HandledStore:
    """Which handler of a consumer group has handled which alert, and which alerts are erased."""

    def __init__(self, session: Session, group_id: str):
        self._session, self._group_id = session, group_id

    def has(self, alert_id: str, handler: str) -> bool:
        query = (
            "SELECT handled_at FROM alert_handled"
            " WHERE alert_id = %s AND consumer = %s AND handler = %s"
        )
        return execute(self._session, query, (alert_id, self._group_id, handler)).one() is not None

    def add(self, alert_id: str, handler: str) -> None:
        insert = ALERT_HANDLED.insert(HANDLED_TTL_S, time="", mark="%s")
        values = (alert_id, self._group_id, handler, from_ms(now_ms()))
        execute(self._session, insert, values)

    def is_erased(self, alert: Alert) -> bool:
        """Whether the user was erased after the alert's window or event."""
        erased = erased_before_ms(self._session, [alert.user_id])
        return to_ms(alert.data.window_start) < erased.get(alert.user_id, 0)


class DeliveryFailure(NamedTuple):
    """Why a record goes to the dead-letter topic."""

    handler: str
    reason: str  # NOT_AN_ALERT, REFUSED or HANDLER_FAILED
    detail: str


@dataclass
class AlertCounts:
    """Counts since the start."""

    received: int = 0  # records
    handled: int = 0  # pairs of alert and handler
    known: int = 0  # pairs that had been handled before
    below: int = 0  # alerts below the minimum severity
    other: int = 0  # events of another type, such as drift
    erased: int = 0  # alerts from before an erasure of their user
    retried: int = 0  # attempts beyond the first
    dead: int = 0  # dead letters


# Sends a record to the dead-letter topic. Returns once Kafka has acknowledged it; raises
# ServiceError.
SendDeadLetter = Callable[[Message, DeliveryFailure], None]


class AlertConsumer:
    """Reads alerts and passes them to handlers. `connect` builds one for the configured Kafka.

    consumer: `run` subscribes it and closes it at the end; auto-commit must be off.
    """

    def __init__(
        self,
        consumer: Consumer,
        topic: str,
        handlers: Sequence[Handler],
        handled: HandledStore,
        send_dead_letter: SendDeadLetter,
        *,
        min_severity: Severity = Severity.LOW,
        retries: RetryPolicy = RetryPolicy(),  # noqa: B008
    ):
        names = [handler.name for handler in handlers]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"handlers {names}: needs at least one, each with a unique name")
        self._consumer, self._topic = consumer, topic
        self._handlers, self._handled, self._retries = handlers, handled, retries
        self._send_dead_letter, self._min_rank = send_dead_letter, min_severity.rank
        self._stop = threading.Event()
        self.counts = AlertCounts()

    @classmethod
    def connect(
        cls,
        settings: Settings,
        handlers: Sequence[Handler],
        session: Session,
        *,
        group_id: str = GROUP_ID,
        **options: Any,
    ) -> Self:
        """Builds a consumer of settings.topics.alerts.

        It starts at the group's committed offsets, else at the oldest record. session: stores
        which alerts were handled. options: of the constructor. Creates the dead-letter topic if it
        is missing.
        Raises ServiceError if Kafka does not answer or lacks the alert topic.
        """
        topic = settings.topics.alerts
        offsets.partition_ranges(settings, topic)
        send_dead_letter = dead_letter_sender(settings)
        consumer = Consumer(
            client_config(settings.kafka)
            | {
                "group.id": group_id,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "max.poll.interval.ms": MAX_HANDLING_MS,
            }
        )
        handled = HandledStore(session, group_id)
        return cls(consumer, topic, handlers, handled, send_dead_letter, **options)

    def stop(self) -> None:
        """Makes `run` return after the handler's current attempt. Any thread may call it."""
        self._stop.set()

    def run(self) -> AlertCounts:
        """Consumes until `stop`. Waits through outages of Kafka.

        Raises ServiceError if Kafka rejects a request or Cassandra stays unreachable. A restarted
        consumer continues with the uncommitted records.
        """
        self._consumer.subscribe([self._topic])
        try:
            while not self._stop.is_set():
                if (record := self._consumer.poll(POLL_S)) is not None:
                    self._handle(record)
        except ConsumerStoppedError:
            pass
        except KafkaException as error:
            raise ServiceError(f"reading topic {self._topic}: {error.args[0].str()}") from None
        finally:
            self._consumer.close()
            log.info("%s", " ".join(f"{name}={n}" for name, n in asdict(self.counts).items()))
        return self.counts

    def _handle(self, record: Message) -> None:
        """Handles a record and commits its offset."""
        if record.error() is not None:
            raise ServiceError(f"reading topic {self._topic}: {record.error().str()}")
        self.counts.received += 1
        try:
            alert = read_alert(record.value())
        except InvalidAlertError as error:
            self._reject(record, DeliveryFailure("", "NOT_AN_ALERT", str(error)[:300]), "no alert")
        else:
            if alert is None:
                self.counts.other += 1
            elif alert.data.severity.rank < self._min_rank:
                self.counts.below += 1
            else:
                self._deliver(record, alert)
        done = TopicPartition(self._topic, record.partition(), record.offset() + 1)
        if (lost := commit_unless_reassigned(self._consumer, [done])) is not None:
            log.warning("offset not committed, the partition was reassigned: %s", lost)

    def _deliver(self, record: Message, alert: Alert) -> None:
        """Passes the alert to each handler that has not handled it yet.

        A failed handler does not keep the others from their turn. Raises ServiceError if the
        project's own Kafka or Cassandra is down: the alert is not at fault, so it does not become
        a dead letter.
        """
        name = f"alert {alert.id} of {user_pseudonym(alert.user_id)}"

        def attempt(handler: Handler) -> bool:
            if is_kept := not self._handled.is_erased(alert):
                handler.handle(alert)
            return is_kept

        for handler in self._handlers:
            if self._retry(self._handled.has, alert.id, handler.name):
                self.counts.known += 1
                continue
            started_s = time.monotonic()
            try:
                if not self._retry(attempt, handler):
                    self.counts.erased += 1
                    log.info("%s: the user was erased", name)
                    return
            except (ServiceError, ConsumerStoppedError):
                raise
            except Exception as error:  # noqa: BLE001 - whatever a shop's handler raises
                reason = "REFUSED" if isinstance(error, AlertRefusedError) else "HANDLER_FAILED"
                detail = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
                self._reject(record, DeliveryFailure(handler.name, reason, detail), name)
                continue
            self._retry(self._handled.add, alert.id, handler.name)
            self.counts.handled += 1
            took_ms = 1_000 * (time.monotonic() - started_s)
            log.info("%s: %s took %.0f ms", name, handler.name, took_ms)

    def _retry(self, call: Callable[..., Result], *arguments: object) -> Result:
        """Raises the last attempt's error, or what is not retried."""
        attempts, initial_s, max_s = self._retries
        retrying = Retrying(
            retry=retry_if_not_exception_type((AlertRefusedError, ConsumerStoppedError)),
            stop=stop_after_attempt(attempts),
            wait=wait_exponential_jitter(multiplier=initial_s, max=max_s, jitter=initial_s),
            sleep=self._sleep,
            before_sleep=self._count_retry,
            reraise=True,
        )
        return retrying(call, *arguments)

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise ConsumerStoppedError

    def _count_retry(self, state: RetryCallState) -> None:
        self.counts.retried += 1
        # Logs only the exception's class: the text of a shop's own error may contain the user id.
        error = type(state.outcome.exception()).__name__
        number, wait_s = state.attempt_number, state.next_action.sleep
        log.warning("attempt %d failed (%s), next attempt in %.1f s", number, error, wait_s)

    def _reject(self, record: Message, failure: DeliveryFailure, name: str) -> None:
        self._send_dead_letter(record, failure)
        self.counts.dead += 1
        log.error(
            "%s/%d offset %d, %s: to the dead-letter topic: %s %s",
            self._topic,
            record.partition(),
            record.offset(),
            name,
            failure.reason,
            failure.handler,
        )


# A request to Kafka holds at most a mebibyte. An alert of Liveprofile has a few kilobytes.
MAX_VALUE_BYTES, MAX_KEY_BYTES = 500_000, 1_024


def dead_letter_topic(settings: Settings) -> str:
    """Returns the alert topic's name plus "-dead": risk-alerts-dead for risk-alerts."""
    return f"{settings.topics.alerts}-dead"


def dead_letter_sender(settings: Settings) -> SendDeadLetter:
    """Returns a function that copies a record to the dead-letter topic.

    The copy has the same key and value; its headers give the reason and the original position. A
    longer value than MAX_VALUE_BYTES is truncated, and headers give its length and digest.
    Creates the topic if it is missing. Raises ServiceError.
    """
    topic = dead_letter_topic(settings)
    # The topic gets the same configuration as the alert topic.
    create_topics(settings, {topic: topic_configs(settings.topics)[settings.topics.alerts]})

    def send_dead_letter(record: Message, failure: DeliveryFailure) -> None:
        headers = {
            "reason": failure.reason,
            "handler": failure.handler,
            "detail": failure.detail,
            "topic": record.topic(),
            "partition": str(record.partition()),
            "offset": str(record.offset()),
        }
        key, value = record.key(), record.value()
        if value is not None:
            value, cut = truncated(value, MAX_VALUE_BYTES)
            headers |= cut
        send_all(settings, topic, [(key and key[:MAX_KEY_BYTES], value, headers)])

    return send_dead_letter
