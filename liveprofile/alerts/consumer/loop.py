"""The consumer of the topic risk-alerts: at least once, in order for each user, never stuck.

What it rests on:

- A record's offset is committed only after every handler has dealt with its alert, or the alert is
  in the dead-letter topic. So nothing is lost, and after a crash some alerts come again.
- What a handler has dealt with is noted after it succeeded (delivery.Handled), so an alert that
  comes again is skipped; only a crash between the two lets a handler see it twice.
- While records are worked on, their partitions are paused and the consumer goes on polling: slow
  handlers hold back reading, and don't cost the membership in the group.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from cassandra.cluster import Session
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from liveprofile.alerts.consumer.alert import Alert, NotAnAlert, Severity, read_alert
from liveprofile.alerts.consumer.dead_letters import PutAside, dead_letters
from liveprofile.alerts.consumer.delivery import (
    CassandraHandled,
    Delivery,
    Failure,
    Handled,
    Handler,
    MemoryHandled,
    Retries,
    Stopped,
)
from liveprofile.config import Settings
from liveprofile.errors import ServiceError
from liveprofile.kafka import offsets
from liveprofile.kafka.connection import client_config
from liveprofile.pseudonym import hashed

log = logging.getLogger(__name__)

GROUP_ID = "liveprofile-alerts"
BATCH_RECORDS = 100
POLL_S = 0.1
REPORT_EVERY_S = 60.0
# The partition went to another member of the group, which will read the record again.
LOST = (
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError._STATE,
    KafkaError._ASSIGNMENT_LOST,
)


@dataclass
class Counts:
    """Since the start, over all threads."""

    received: int = 0  # records
    handled: int = 0  # a handler has dealt with an alert
    known: int = 0  # it had before
    below: int = 0  # alerts of less than the least severity
    other: int = 0  # events of another type, such as drift
    retried: int = 0  # attempts beyond the first
    dead: int = 0  # records put aside


class _Work(NamedTuple):
    future: Future[None]
    place: _Place


class _Place:
    """Up to where a partition's records are dealt with: written by its thread, then read."""

    def __init__(self, topic: str, partition: int):
        self.topic, self.partition = topic, partition
        self.next_offset: int | None = None


class AlertConsumer:
    """See the module. `connect` makes one for the real Kafka.

    consumer: subscribed by `run` and closed at its end; it must not commit on its own.
    workers: threads; the records of one partition are dealt with one after the other.
    """

    def __init__(
        self,
        consumer: Consumer,
        topic: str,
        handlers: Sequence[Handler],
        handled: Handled,
        put_aside: PutAside,
        *,
        min_severity: Severity = Severity.LOW,
        retries: Retries | None = None,
        workers: int = 4,
    ):
        names = [handler.name for handler in handlers]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"handlers {names}: at least one, each with a name of its own")
        self._consumer, self._topic = consumer, topic
        self._put_aside, self._min_rank = put_aside, min_severity.rank
        self._stop = threading.Event()  # asked to stop
        self._release = threading.Event()  # work in progress must come to an end
        self._delivery = Delivery(handlers, handled, retries or Retries(), self._release)
        self._workers = workers
        self._work: list[_Work] = []
        self._early: list[Message] = []  # came while work was in progress, after a rebalance
        self._lock = threading.Lock()
        self.counts = Counts()

    @classmethod
    def connect(
        cls,
        settings: Settings,
        handlers: Sequence[Handler],
        session: Session | None = None,
        *,
        group_id: str = GROUP_ID,
        **options: Any,
    ) -> AlertConsumer:
        """A consumer of settings.topics.alerts that begins where its group is, else at the oldest.

        session: where to note what was handled; None: in memory, until a restart.
        Creates the dead-letter topic if it is missing. options: as the constructor's.
        Raises ServiceError if Kafka doesn't answer or lacks the topic of alerts.
        """
        topic = settings.topics.alerts
        offsets.ranges(settings, topic)
        aside = dead_letters(settings)
        consumer = Consumer(
            client_config(settings.kafka)
            | {
                "group.id": group_id,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
        )
        handled = MemoryHandled() if session is None else CassandraHandled(session, group_id)
        return cls(consumer, topic, handlers, handled, aside, **options)

    def stop(self) -> None:
        """Makes `run` return: after the handlers' present attempts, not before. Of any thread."""
        self._stop.set()
        self._release.set()

    def run(self) -> Counts:
        """Works until `stop`; waits for a Kafka that is away for a while.

        Raises ServiceError if Kafka refuses, or Cassandra stays away: start it again, and it goes
        on with what was not committed.
        """
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="alerts")
        self._consumer.subscribe([self._topic], on_revoke=self._revoked, on_lost=self._revoked)
        reported_s = time.monotonic()
        try:
            while not self._stop.is_set():
                records, self._early = self._early, []
                if records := records or self._poll(BATCH_RECORDS):
                    self._deal_with(records, pool)
                if time.monotonic() - reported_s >= REPORT_EVERY_S:
                    reported_s = time.monotonic()
                    self._report()
        except KafkaException as error:
            raise ServiceError(f"reading topic {self._topic}: {error.args[0].str()}") from None
        finally:
            self._release.set()
            pool.shutdown()
            self._consumer.close()
            self._report()
        return self.counts

    def _deal_with(self, records: list[Message], pool: ThreadPoolExecutor) -> None:
        """Returns when all are dealt with and committed, or the work was broken off."""
        by_partition: dict[int, list[Message]] = defaultdict(list)
        for record in records:
            by_partition[record.partition()].append(record)
        for partition, its_records in by_partition.items():
            place = _Place(self._topic, partition)
            self._work.append(_Work(pool.submit(self._work_off, its_records, place), place))
        # All partitions, so that polling below only serves the group and brings no records.
        self._consumer.pause(self._consumer.assignment())
        while self._work and not all(work.future.done() for work in self._work):
            self._early += self._poll(1)  # only of partitions that came in the meantime
        self._finish()
        self._consumer.resume(self._consumer.assignment())

    def _work_off(self, records: list[Message], place: _Place) -> None:
        for record in records:
            if self._release.is_set():
                return
            try:
                self._handle(record)
            except Stopped:
                return
            place.next_offset = record.offset() + 1

    def _handle(self, record: Message) -> None:
        self._count(received=1)
        try:
            alert = read_alert(record.value())
        except NotAnAlert as error:
            self._put(record, Failure("", "NOT_AN_ALERT", str(error)[:300]))
            return
        if alert is None:
            self._count(other=1)
            return
        if alert.data.severity.rank < self._min_rank:
            self._count(below=1)
            return
        outcome = self._delivery.deliver(alert)
        for failure in outcome.failures:
            self._put(record, failure, alert)
        self._count(handled=outcome.handled, known=outcome.known, retried=outcome.retried)

    def _put(self, record: Message, failure: Failure, alert: Alert | None = None) -> None:
        self._put_aside(record, failure)
        self._count(dead=1)
        log.error(
            "%s/%d offset %d, %s: to the dead-letter topic: %s %s",
            self._topic, record.partition(), record.offset(),
            f"alert {alert.id} of {hashed(alert.user_id)}" if alert else "no alert",
            failure.reason, failure.handler,
        )  # fmt: skip

    def _revoked(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        """Called while polling: partitions go to another member of the group.

        All work ends first: handlers finish their attempt, and what is done is committed.
        """
        self._early.clear()
        if self._work:
            self._release.set()
            self._finish()
            if not self._stop.is_set():
                self._release.clear()

    def _finish(self) -> None:
        """Waits for the work in progress and commits what it has done. Raises what it raised."""
        work, self._work = self._work, []
        wait([each.future for each in work])
        done = [
            TopicPartition(each.place.topic, each.place.partition, each.place.next_offset)
            for each in work
            if each.place.next_offset is not None
        ]
        if done:
            try:
                self._consumer.commit(offsets=done, asynchronous=False)
            except KafkaException as error:
                if error.args[0].code() not in LOST:
                    raise
                log.warning("offsets not committed, the partitions have gone: %s", error.args[0])
        for each in work:
            each.future.result()

    def _poll(self, count: int) -> list[Message]:
        messages = self._consumer.consume(count, timeout=POLL_S)
        for message in messages:
            if message.error() is not None:
                raise ServiceError(f"reading topic {self._topic}: {message.error().str()}")
        return messages

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, count in more.items():
                setattr(self.counts, name, getattr(self.counts, name) + count)

    def _report(self) -> None:
        log.info("%s", " ".join(f"{name}={value}" for name, value in asdict(self.counts).items()))


@contextmanager
def stop_on_signals(consumer: AlertConsumer) -> Iterator[None]:
    """SIGTERM and SIGINT (Ctrl-C) stop the consumer gracefully. For the main thread."""
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {each: signal.signal(each, lambda *_: consumer.stop()) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
