"""The consumer of the topic risk-alerts: at-least-once delivery, in order for each user.

- The consumer commits a record's offset only after every handler has handled its alert or the
  alert is in the dead-letter topic. No alert is lost, and after a crash some alerts come again.
- A handler's success is recorded after it returns (`HandledStore`), and an alert that comes
  again is skipped. Only a crash between the two makes a handler get the alert twice.
- While handlers work on records, their partitions are paused and the consumer keeps polling: slow
  handlers hold back reading, but the consumer stays a member of its group.
"""

from __future__ import annotations

import hashlib
import logging
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from cassandra.cluster import Session
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from liveprofile.alerts.consumer.alert import Alert, InvalidAlert, read_alert
from liveprofile.alerts.consumer.delivery import (
    ConsumerStopped,
    Delivery,
    DeliveryFailure,
    HandledStore,
    Handler,
    RetryPolicy,
)
from liveprofile.errors import ServiceError
from liveprofile.kafka import offsets
from liveprofile.kafka.connection import client_config
from liveprofile.kafka.records import commit_unless_reassigned, send_all
from liveprofile.kafka.topics import create_topics, topic_configs
from liveprofile.pseudonym import user_pseudonym
from liveprofile.rules.flags import Severity
from liveprofile.settings import Settings

log = logging.getLogger(__name__)

GROUP_ID = "liveprofile-alerts"
BATCH_RECORDS = 100
POLL_S = 0.1
LOG_INTERVAL_S = 60.0


@dataclass
class AlertCounts:
    """Counts since the start, over all threads."""

    received: int = 0  # records
    handled: int = 0  # pairs of alert and handler
    known: int = 0  # pairs that had been handled before
    below: int = 0  # alerts below the minimum severity
    other: int = 0  # events of another type, such as drift
    retried: int = 0  # attempts beyond the first
    dead: int = 0  # dead letters


# Sends a record to the dead-letter topic. Returns once Kafka has acknowledged it; raises
# ServiceError.
SendDeadLetter = Callable[[Message, DeliveryFailure], None]


class AlertConsumer:
    """Reads alerts and passes them to handlers. `connect` builds one for the configured Kafka.

    consumer: `run` subscribes it and closes it at the end; auto-commit must be off.
    workers: threads; each partition's records are handled one after the other.
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
        retries: RetryPolicy | None = None,
        workers: int = 4,
    ):
        names = [handler.name for handler in handlers]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"handlers {names}: needs at least one, each with a unique name")
        self._consumer, self._topic = consumer, topic
        self._send_dead_letter, self._min_rank = send_dead_letter, min_severity.rank
        self._stop = threading.Event()  # `run` must return
        self._interrupt = threading.Event()  # work in progress must end
        self._delivery = Delivery(
            handlers, handled, retries or RetryPolicy(), self._interrupt, self._count
        )
        self._workers = workers
        self._work: list[Future[None]] = []
        # By partition, the next offset to commit; each written by the thread of its partition.
        self._next_offsets: dict[int, int] = {}
        # Records of partitions that a rebalance assigned while work was in progress.
        self._early_records: list[Message] = []
        self._lock = threading.Lock()
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
    ) -> AlertConsumer:
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
            }
        )
        handled = HandledStore(session, group_id)
        return cls(consumer, topic, handlers, handled, send_dead_letter, **options)

    def stop(self) -> None:
        """Makes `run` return after the handlers' current attempts. Any thread may call it."""
        self._stop.set()
        self._interrupt.set()

    def run(self) -> AlertCounts:
        """Consumes until `stop`. Waits through outages of Kafka.

        Raises ServiceError if Kafka rejects a request or Cassandra stays unreachable. A restarted
        consumer continues with the uncommitted records.
        """
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="alerts")
        self._consumer.subscribe(
            [self._topic], on_revoke=self._on_revoked, on_lost=self._on_revoked
        )
        logged_s = time.monotonic()
        try:
            while not self._stop.is_set():
                records, self._early_records = self._early_records, []
                if records := records or self._poll(BATCH_RECORDS):
                    self._handle_batch(records, pool)
                if time.monotonic() - logged_s >= LOG_INTERVAL_S:
                    logged_s = time.monotonic()
                    self._log_counts()
        except KafkaException as error:
            raise ServiceError(f"reading topic {self._topic}: {error.args[0].str()}") from None
        finally:
            self._interrupt.set()
            pool.shutdown()
            self._consumer.close()
            self._log_counts()
        return self.counts

    def _handle_batch(self, records: list[Message], pool: ThreadPoolExecutor) -> None:
        """Returns when all records are handled and committed, or the work was interrupted."""
        by_partition: dict[int, list[Message]] = defaultdict(list)
        for record in records:
            by_partition[record.partition()].append(record)
        self._work = [pool.submit(self._handle_partition, part) for part in by_partition.values()]
        # Pauses every assigned partition, so that polling below only keeps the group membership.
        self._consumer.pause(self._consumer.assignment())
        while self._work and not all(work.done() for work in self._work):
            # Returns records only of partitions that were assigned in the meantime.
            self._early_records += self._poll(1)
        self._finish()
        self._consumer.resume(self._consumer.assignment())

    def _handle_partition(self, records: list[Message]) -> None:
        for record in records:
            if self._interrupt.is_set():
                return
            try:
                self._handle(record)
            except ConsumerStopped:
                return
            self._next_offsets[record.partition()] = record.offset() + 1

    def _handle(self, record: Message) -> None:
        self._count(received=1)
        try:
            alert = read_alert(record.value())
        except InvalidAlert as error:
            self._reject(record, DeliveryFailure("", "NOT_AN_ALERT", str(error)[:300]))
            return
        if alert is None:
            self._count(other=1)
            return
        if alert.data.severity.rank < self._min_rank:
            self._count(below=1)
            return
        for failure in self._delivery.deliver(alert):
            self._reject(record, failure, alert)

    def _reject(
        self, record: Message, failure: DeliveryFailure, alert: Alert | None = None
    ) -> None:
        self._send_dead_letter(record, failure)
        self._count(dead=1)
        log.error(
            "%s/%d offset %d, %s: to the dead-letter topic: %s %s",
            self._topic,
            record.partition(),
            record.offset(),
            f"alert {alert.id} of {user_pseudonym(alert.user_id)}" if alert else "no alert",
            failure.reason,
            failure.handler,
        )

    def _on_revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """The consumer calls this while it polls, when partitions go to another group member.

        All work ends first: handlers finish their attempt, and handled records are committed.
        """
        self._early_records.clear()
        if self._work:
            self._interrupt.set()
            self._finish()
            if not self._stop.is_set():
                self._interrupt.clear()

    def _finish(self) -> None:
        """Waits for the work in progress and commits its progress. Raises what the work raised."""
        work, self._work = self._work, []
        wait(work)
        offsets, self._next_offsets = self._next_offsets, {}
        done = [TopicPartition(self._topic, *each) for each in offsets.items()]
        if done and (error := commit_unless_reassigned(self._consumer, done)) is not None:
            log.warning("offsets not committed, partitions were reassigned: %s", error)
        for each in work:
            each.result()

    def _poll(self, count: int) -> list[Message]:
        messages = self._consumer.consume(count, timeout=POLL_S)
        for message in messages:
            if message.error() is not None:
                raise ServiceError(f"reading topic {self._topic}: {message.error().str()}")
        return messages

    def _count(self, **increments: int) -> None:
        with self._lock:
            for name, count in increments.items():
                setattr(self.counts, name, getattr(self.counts, name) + count)

    def _log_counts(self) -> None:
        log.info("%s", " ".join(f"{name}={value}" for name, value in asdict(self.counts).items()))


@contextmanager
def stop_on_signals(consumer: AlertConsumer) -> Iterator[None]:
    """Stops the consumer gracefully at SIGTERM and SIGINT (Ctrl-C). For the main thread."""
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {each: signal.signal(each, lambda *_: consumer.stop()) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


# A request to Kafka holds at most a mebibyte. An alert of Liveprofile has a few kilobytes.
MAX_VALUE_BYTES, MAX_KEY_BYTES, MAX_DETAIL_CHARS = 500_000, 1_024, 1_000


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
            "detail": failure.detail[:MAX_DETAIL_CHARS],
            "topic": record.topic(),
            "partition": str(record.partition()),
            "offset": str(record.offset()),
        }
        key, value = record.key(), record.value()
        if value is not None and len(value) > MAX_VALUE_BYTES:
            headers |= {
                "truncated": "true",
                "payload_bytes": str(len(value)),
                "payload_sha256": hashlib.sha256(value).hexdigest(),
            }
            value = value[:MAX_VALUE_BYTES]
        send_all(settings, topic, [(key and key[:MAX_KEY_BYTES], value, headers)])

    return send_dead_letter
