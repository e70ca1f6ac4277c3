"""Follows a compacted topic in a thread of its own: rules and models change while the job runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, Protocol

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from liveprofile.errors import ServiceError
from liveprofile.kafka.connection import client_config
from liveprofile.kafka.records import Record, to_record
from liveprofile.kafka.topics import NoTopicError, partitions
from liveprofile.settings import Settings

log = logging.getLogger(__name__)

POLL_TIMEOUT_S = 0.5
RETRY_S = 5.0
READ_TIMEOUT_S = 60.0
FIRST_READ_TIMEOUT_S = 20.0  # then a worker starts without the topic
JOIN_TIMEOUT_S = 10.0  # a thread that hangs in the Kafka client ends with the process
FETCH_RECORDS = 1_000
PARTITIONS_CHECK_S = 10.0  # partitions may be added while the topic is followed


class TopicSource(Protocol):
    """Where the records come from. Used by one thread only."""

    caught_up: bool  # all records that existed when the source was opened have been returned

    def poll(self, timeout_s: float) -> list[Record]:
        """Returns new records, waiting at most `timeout_s`.

        Raises ServiceError or KafkaException.
        """

    def close(self) -> None: ...


class KafkaTopicSource:
    """Reads a topic from its beginning and follows it, without a consumer group or commits.

    Partitions that are added later are read from their beginning, too: `caught_up` is false until
    their end is reached. open_consumer: from librdkafka's configuration.

    Raises ServiceError if Kafka does not answer, NoTopicError if the topic does not exist.
    """

    def __init__(
        self,
        settings: Settings,
        topic: str,
        group_id: str,
        open_consumer: Callable[[dict[str, Any]], Consumer] = Consumer,
        partitions_check_s: float = PARTITIONS_CHECK_S,
    ):
        self._settings, self._topic, self._check_s = settings.kafka, topic, partitions_check_s
        self._consumer = open_consumer(
            client_config(settings.kafka)
            | {
                "group.id": group_id,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
            }
        )
        self._known: set[int] = set()
        self._behind: set[int] = set()
        try:
            self._read_new_partitions()
        except BaseException:
            self._consumer.close()
            raise

    @property
    def caught_up(self) -> bool:
        return not self._behind

    def poll(self, timeout_s: float) -> list[Record]:
        if time.monotonic() >= self._next_check_s:
            try:
                self._read_new_partitions()
            except ServiceError as error:  # the partitions that are known are followed meanwhile
                log.warning("topic %s: %s; are there new partitions?", self._topic, error)
        records = []
        for message in self._consumer.consume(FETCH_RECORDS, timeout=timeout_s):
            error = message.error()
            if error is None:
                records.append(to_record(message))
            elif error.code() == KafkaError._PARTITION_EOF:
                self._behind.discard(message.partition())
            else:
                raise ServiceError(f"reading topic {self._topic}: {error.str()}")
        return records

    def close(self) -> None:
        self._consumer.close()

    def _read_new_partitions(self) -> None:
        """Raises ServiceError."""
        self._next_check_s = time.monotonic() + self._check_s
        new = set(partitions(self._consumer, self._settings, self._topic)) - self._known
        if new:
            self._consumer.incremental_assign(
                [TopicPartition(self._topic, number, OFFSET_BEGINNING) for number in sorted(new)]
            )
            self._known |= new
            self._behind |= new


def read_to_end(
    topic: str, open_source: Callable[[], TopicSource], take: Callable[[list[Record]], None]
) -> None:
    """Hands the topic's present records to `take`; none if the topic does not exist.

    Raises ServiceError.
    """
    try:
        with closing(open_source()) as source:
            deadline_s = time.monotonic() + READ_TIMEOUT_S
            while not source.caught_up:
                if time.monotonic() > deadline_s:
                    raise ServiceError(
                        f"reading topic {topic}: Kafka did not send it in {READ_TIMEOUT_S:.0f} s"
                    )
                take(source.poll(POLL_TIMEOUT_S))
    except NoTopicError:
        pass
    except KafkaException as error:
        raise ServiceError(f"reading topic {topic}: {error}") from None


class TopicReader(Protocol):
    """What one pass over the topic, from its beginning, has read. Used by one thread only."""

    def take(self, records: list[Record]) -> None:
        """Takes records in their order."""

    def publish(self) -> str:
        """Called when all records of the topic have been taken, and after later ones.

        Returns a problem to warn of, "" if there is none.
        """


class TopicFollower:
    """Reads a topic in a thread and reopens it after each failure.

    name: of the thread. subject: what the topic holds, for log lines. in_force: names what stays in
    force when the topic fails. open_source, open_reader: called in the thread, again after each
    failure.

    The constructor returns when the topic has been read to its end, or after
    `first_read_timeout_s`. Failures of the source are logged, never raised.
    """

    def __init__(
        self,
        name: str,
        subject: str,
        open_source: Callable[[], TopicSource],
        open_reader: Callable[[], TopicReader],
        in_force: Callable[[], str],
        *,
        poll_timeout_s: float = POLL_TIMEOUT_S,
        retry_s: float = RETRY_S,
        first_read_timeout_s: float = FIRST_READ_TIMEOUT_S,
    ):
        self._subject, self._in_force = subject, in_force
        self._open_source, self._open_reader = open_source, open_reader
        self._poll_timeout_s, self._retry_s = poll_timeout_s, retry_s
        self._last_warning = ""
        self._first_read, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        if not self._first_read.wait(first_read_timeout_s):
            log.warning("the %s topic is not read yet: starting with %s", subject, in_force())

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join(JOIN_TIMEOUT_S)

    def _warn_once(self, text: str) -> None:
        """Logs a failure, but not again at each retry."""
        if text != self._last_warning:
            log.warning("%s; %s in force", text, self._in_force())
            self._last_warning = text

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    with closing(self._open_source()) as source:
                        self._follow(source)
                except (ServiceError, KafkaException) as error:
                    self._warn_once(str(error))
                self._first_read.set()
                self._stop.wait(self._retry_s)
        finally:
            self._first_read.set()
            if not self._stop.is_set():
                log.error(
                    "the thread that reads the %s topic has failed; %s in force",
                    self._subject,
                    self._in_force(),
                )

    def _follow(self, source: TopicSource) -> None:
        reader, changed = self._open_reader(), True
        while not self._stop.is_set():
            records = source.poll(self._poll_timeout_s)
            reader.take(records)
            changed |= bool(records)
            if changed and source.caught_up:
                self._last_warning, changed = "", False
                if problem := reader.publish():
                    self._warn_once(problem)
                self._first_read.set()
