"""Decodes the records of the topic `topics.encoded` and sends them to the input topic.

At least once: a record's offset is committed after Kafka has acknowledged what it became. A record
that is decoded twice after a failure is a duplicate, which the job drops by its event_id.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from intake.decoding.decode import DecodeError, ReaderOf, decode
from intake.decoding.registry import RegistryError
from liveprofile.errors import ServiceError
from liveprofile.kafka.connection import client_config, error_text
from liveprofile.kafka.offsets import decoder_group, partition_ranges
from liveprofile.kafka.records import Record, commit_unless_reassigned, to_record, truncated
from liveprofile.settings import Settings

log = logging.getLogger(__name__)

BATCH_RECORDS = 1_000
POLL_S = 0.5
RETRY_S = 1.0
LOG_INTERVAL_S = 60.0
SESSION_TIMEOUT_MS = 10_000
POSITION = ("topic", "partition", "offset")


class Output(NamedTuple):
    """A record to send, and what it is counted as."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: dict[str, str]
    counted: str  # "decoded", or the reason of a rejection


def output_of(record: Record, settings: Settings, reader_of: ReaderOf) -> Output:
    """What a record becomes. Raises RegistryError.

    The headers of a decoded record name the record that it was; those of a rejected one are the
    job's.
    """
    max_chars = settings.limits.max_payload_chars
    position = dict(zip(POSITION, map(str, record[:3]), strict=True))
    try:
        event = decode(record, reader_of, max_chars)
    except DecodeError as error:
        value, cut = truncated(record.value or b"", max_chars)
        headers = {"reason": error.reason, "detail": error.detail, **position, **cut}
        return Output(settings.topics.rejected, None, value, headers, error.reason)
    headers = {f"encoded_{name}": value for name, value in position.items()}
    return Output(settings.topics.events, event.key, event.value, headers, "decoded")


class Decoder:
    """Reads, decodes and sends until `stop`. One thread: a partition's order is kept.

    While the registry does not answer, it holds the record that needs it and all after it.
    """

    def __init__(
        self,
        settings: Settings,
        consumer: Any,
        producer: Any,
        reader_of: ReaderOf,
        *,
        retry_s: float = RETRY_S,
    ):
        """consumer, producer: of confluent_kafka. retry_s: between attempts at the registry."""
        self._settings, self._consumer, self._producer = settings, consumer, producer
        self._reader_of, self._retry_s = reader_of, retry_s
        self._pending: deque[Record] = deque()
        self._waits = False  # for the registry
        self._undelivered: list[str] = []
        self._stop = threading.Event()
        self.counts: Counter[str] = Counter()

    @classmethod
    def connect(cls, settings: Settings, reader_of: ReaderOf) -> Self:
        """A decoder of `topics.encoded`. Raises ServiceError if Kafka lacks a topic."""
        for topic in (settings.topics.encoded, settings.topics.events, settings.topics.rejected):
            partition_ranges(settings, topic)
        consumer = Consumer(
            client_config(settings.kafka)
            | {
                "group.id": decoder_group(settings.kafka),
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "queued.max.messages.kbytes": 65_536,
                # After a kill the next decoder waits this long for the partitions.
                "session.timeout.ms": SESSION_TIMEOUT_MS,
            }
        )
        producer = Producer(
            client_config(settings.kafka)
            | {
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "linger.ms": 1,
                "compression.type": "lz4",
                # An outage of Kafka is waited for.
                "message.timeout.ms": 0,
            }
        )
        return cls(settings, consumer, producer, reader_of)

    def stop(self) -> None:
        """Makes `run` return soon. Any thread may call it."""
        self._stop.set()

    def run(self) -> dict[str, int]:
        """Decodes until `stop`; returns the numbers of records, decoded and by reason.

        Raises ServiceError if Kafka refuses a request. A new decoder goes on after the last
        committed record.
        """
        topic = self._settings.topics.encoded
        self._consumer.subscribe([topic], on_revoke=self._on_revoked, on_lost=self._on_revoked)
        logged_s = time.monotonic()
        try:
            while not self._stop.is_set():
                self._pending.extend(self._poll())
                self._note(self._work_off())
                if time.monotonic() - logged_s >= LOG_INTERVAL_S:
                    logged_s = time.monotonic()
                    log.info("%s", self.counts)
        except KafkaException as error:
            raise ServiceError(f"decoding topic {topic}: {error_text(error)}") from None
        finally:
            self._consumer.close()
        return dict(self.counts)

    def _poll(self) -> list[Record]:
        """Waits for a record only if there is none: what has arrived goes on at once.

        While the registry does not answer, it waits without records, but polls: otherwise the group
        would take the partitions away.
        """
        if self._waits:
            self._consumer.pause(self._consumer.assignment())
            return self._consume(1, self._retry_s)
        records = self._consume(1, POLL_S)
        return records + self._consume(BATCH_RECORDS, 0) if records else []

    def _consume(self, count: int, timeout_s: float) -> list[Record]:
        messages = self._consumer.consume(count, timeout=timeout_s)
        for message in messages:
            if message.error() is not None:
                topic = self._settings.topics.encoded
                raise ServiceError(f"reading topic {topic}: {message.error().str()}")
        return [to_record(message) for message in messages]

    def _work_off(self) -> RegistryError | None:
        """Sends what the pending records become, in order, as far as the registry answers."""
        done: dict[int, int] = {}
        counts: Counter[str] = Counter()
        unavailable = None
        while self._pending:
            record = self._pending[0]
            try:
                output = output_of(record, self._settings, self._reader_of)
            except RegistryError as error:
                unavailable = error
                break
            self._send(output, record.timestamp_ms)
            counts[output.counted] += 1
            done[record.partition] = record.offset + 1
            self._pending.popleft()
        if done and self._flushed():
            self._commit(done)
            self.counts += counts
        return unavailable

    def _send(self, output: Output, timestamp_ms: int) -> None:
        self._producer.produce(
            output.topic,
            output.value,
            output.key,
            headers=output.headers,
            # A topic with LogAppendTime has its own.
            timestamp=max(timestamp_ms, 0),
            on_delivery=self._on_delivery,
        )

    def _on_delivery(self, error: Any, message: Any) -> None:
        if error is not None:
            self._undelivered.append(f"{message.topic()}: {error.str()}")

    def _flushed(self) -> bool:
        """Waits until all records are acknowledged. False: stopped before that."""
        while self._producer.flush(POLL_S):
            if self._stop.is_set():
                return False
        if self._undelivered:
            raise ServiceError(f"Kafka did not accept a record for {self._undelivered[0]}")
        return True

    def _commit(self, done: Mapping[int, int]) -> None:
        topic = self._settings.topics.encoded
        offsets = [TopicPartition(topic, *position) for position in done.items()]
        if (error := commit_unless_reassigned(self._consumer, offsets)) is not None:
            log.warning("offsets not committed, partitions were reassigned: %s", error)

    def _note(self, error: RegistryError | None) -> None:
        """Logs when the registry fails and when it answers again."""
        if error is not None and not self._waits:
            log.error("%s. Waiting; no record is lost", error)
        if error is None and self._waits:
            self._consumer.resume(self._consumer.assignment())
            log.error("the schema registry answers again")
        self._waits = error is not None

    def _on_revoked(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        """The next owner of a partition reads its pending records: they are not committed."""
        revoked = {each.partition for each in partitions}
        self._pending = deque(each for each in self._pending if each.partition not in revoked)
