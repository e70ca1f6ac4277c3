"""Reads topics up to their present end, and sends records."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from liveprofile.errors import ServiceError
from liveprofile.kafka.connection import client_config, error_text
from liveprofile.kafka.topics import PartitionRange, query_ranges
from liveprofile.settings import KafkaSettings, Settings

# A reachable broker answers a fetch within a second, even for an empty topic.
READ_TIMEOUT_S = 60.0
FETCH_RECORDS = 10_000
POLL_INTERVAL_S = 1.0
DELIVERY_TIMEOUT_MS = 120_000
# A writer that dies in its transaction keeps readers from later records for this long.
EXCLUSIVE_TRANSACTION_MS = 10_000
FENCED_ERRORS = (
    KafkaError._FENCED,
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
)
# Commit errors that mean: another member of the group owns the partition now and reads the record
# again.
PARTITION_LOST_ERRORS = (
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError._STATE,
    KafkaError._ASSIGNMENT_LOST,
)


OutputRecord = tuple[bytes | None, bytes | None, dict[str, str]]  # key, value, headers
Send = Callable[[Iterable[OutputRecord]], None]


class Record(NamedTuple):
    """One Kafka record; the topic's configuration decides whose clock sets `timestamp_ms`."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]


def read_topic(
    settings: Settings, topic: str, ranges: dict[int, PartitionRange] | None = None
) -> Iterator[Record]:
    """The records of `ranges`; None means all records up to the end offsets at call time.

    Records are in order within a partition only. Yields committed transactions only. Raises
    ServiceError.
    """
    with open_consumer(settings.kafka) as consumer:
        if ranges is None:
            ranges = query_ranges(consumer, settings.kafka, topic)
        yield from _read_ranges(consumer, settings.kafka, topic, ranges)


class RecordSender:
    """Sends records to a topic. `flush` waits until Kafka has acknowledged all of them.

    Each method raises ServiceError once a record was refused. options: of librdkafka, besides those
    of the settings.
    """

    def __init__(
        self, settings: Settings, topic: str, options: Mapping[str, Any] = MappingProxyType({})
    ):
        self._topic, self._failed, self._first_error = topic, 0, ""
        self.produced = 0  # records
        self._producer = Producer(
            client_config(settings.kafka)
            | {
                # The Java clients' partitioner: a user stays in one partition for every producer.
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": 20,
                "batch.size": 512 * 1024,
                "queue.buffering.max.messages": 200_000,
                "queue.buffering.max.kbytes": 131_072,
                "message.timeout.ms": DELIVERY_TIMEOUT_MS,
                "delivery.report.only.error": True,
                **options,
            }
        )

    def produce(
        self,
        value: bytes | None,
        key: bytes | None,
        headers: Mapping[str, str] | None = None,
        partition: int = -1,
    ) -> None:
        """Sends a record soon; waits while too many are on their way."""
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    value,
                    key,
                    partition,
                    headers=dict(headers or {}),
                    on_delivery=self._on_delivery,
                )
            except BufferError:  # the producer's queue is full
                self.poll(0.1)
            except KafkaException as error:  # such as no right to write to any topic
                raise ServiceError(
                    f"Kafka did not accept record {self.produced} of {len(value or b'')} bytes for"
                    f" {self._topic}: {error_text(error)}"
                ) from None
            else:
                self.produced += 1
                return

    def poll(self, timeout_s: float = 0) -> None:
        """Handles acknowledgements, waiting at most so long."""
        self._producer.poll(timeout_s)
        self._raise_failure()

    def flush(self) -> None:
        """Waits for all acknowledgements."""
        while self._producer.flush(1.0):
            self._raise_failure()
        self._raise_failure()

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failed += 1
            self._first_error = self._first_error or error.str()

    def _raise_failure(self) -> None:
        if self._failed:
            raise ServiceError(
                f"Kafka did not accept {self._failed} of {self.produced} records for {self._topic}:"
                f" {self._first_error}"
            )


def send_all(settings: Settings, topic: str, records: Iterable[OutputRecord]) -> int:
    """Sends records, waits for all acknowledgements, returns the count.

    Raises ServiceError if Kafka does not accept a record.
    """
    sender = RecordSender(settings, topic)
    for key, value, headers in records:
        sender.produce(value, key, headers)
    sender.flush()
    return sender.produced


class WriterFencedError(ServiceError):
    """Another exclusive writer was opened later; nothing was written."""


class Progress(NamedTuple):
    """Where a group goes on in a partition, and a note of at most 4,096 bytes beside it."""

    offset: int
    note: str = ""


class ExclusiveWriter:
    """Sends records, and commits offsets, in one Kafka transaction: all of it happens, or nothing.

    It is the only writer with its transactional id: opening it fences those that were opened
    before, and ends their transactions. So what a topic holds after that stays until this writer
    sends, unless somebody writes without being exclusive.

    Raises ServiceError, WriterFencedError if another one was opened meanwhile.
    """

    def __init__(self, settings: Settings, transactional_id: str):
        self._id, self._timeout_s = transactional_id, settings.kafka.request_timeout_s
        self._producer = Producer(
            client_config(settings.kafka)
            | {
                "partitioner": "murmur2_random",
                "transactional.id": transactional_id,
                "transaction.timeout.ms": EXCLUSIVE_TRANSACTION_MS,
            }
        )
        try:
            self._producer.init_transactions(self._timeout_s)
        except KafkaException as error:
            raise self._failure(error) from None

    def commit(
        self,
        topic: str,
        records: Iterable[OutputRecord],
        input_topic: str = "",
        progress: Mapping[int, Progress] | None = None,
        group_metadata: Any = None,
    ) -> None:
        """Sends records to `topic` and commits `progress` by partition of `input_topic`.

        After an error nothing of it was done, or all of it: go on with a new writer and the
        committed offsets. Raises ServiceError, WriterFencedError.
        """
        places = [
            TopicPartition(input_topic, number, each.offset, metadata=each.note)
            for number, each in (progress or {}).items()
        ]
        try:
            self._producer.begin_transaction()
            for key, value, headers in records:
                self._producer.produce(topic, value, key, headers=dict(headers))
            if places:
                self._producer.send_offsets_to_transaction(places, group_metadata, self._timeout_s)
            self._producer.commit_transaction(self._timeout_s)
        except KafkaException as error:
            raise self._failure(error) from None

    def _failure(self, error: KafkaException) -> ServiceError:
        if error.args[0].code() in FENCED_ERRORS:
            return WriterFencedError(
                f"another process has opened the transactional id {self._id}, or a transaction"
                f" took more than {EXCLUSIVE_TRANSACTION_MS / 1_000:.0f} s"
            )
        return ServiceError(
            f"Kafka did not accept a transaction of {self._id}: {error_text(error)}"
        )


@contextmanager
def exclusive_writer(settings: Settings, topic: str) -> Iterator[Send]:
    """Yields what sends records as the only exclusive writer of the topic (ExclusiveWriter)."""
    writer = ExclusiveWriter(settings, f"liveprofile-{topic}")
    yield lambda records: writer.commit(topic, records)


def _read_ranges(
    consumer: Consumer, kafka: KafkaSettings, topic: str, ranges: dict[int, PartitionRange]
) -> Iterator[Record]:
    open_partitions = {number for number, span in ranges.items() if span.end > span.first}
    if not open_partitions:
        return
    consumer.assign(
        [TopicPartition(topic, number, ranges[number].first) for number in sorted(open_partitions)]
    )
    silent_s = 0.0
    while open_partitions:
        messages = consumer.consume(FETCH_RECORDS, timeout=0.5)
        silent_s = 0.0 if messages else silent_s + 0.5
        if silent_s >= READ_TIMEOUT_S:
            raise ServiceError(
                f"reading topic {topic}: Kafka at {kafka.bootstrap_servers} sent nothing for"
                f" {READ_TIMEOUT_S:.0f} s before the end of partitions {sorted(open_partitions)}"
            )
        for message in messages:
            if message.error() is not None:
                raise ServiceError(f"reading topic {topic}: {message.error()}")
            if message.offset() < ranges[message.partition()].end:
                yield to_record(message)
        # Compare positions, not the last record's offset: transaction markers take offsets too.
        requested = [TopicPartition(topic, number) for number in open_partitions]
        for position in consumer.position(requested):
            if position.offset >= ranges[position.partition].end:
                open_partitions.discard(position.partition)


def truncated(value: bytes, max_bytes: int) -> tuple[bytes, dict[str, str]]:
    """The start of a value, and the headers that tell what a longer one was."""
    if len(value) <= max_bytes:
        return value, {}
    digest = hashlib.sha256(value).hexdigest()
    headers = {"truncated": "true", "payload_bytes": str(len(value)), "payload_sha256": digest}
    return value[:max_bytes], headers


def to_record(message: Any) -> Record:
    """message: a confluent_kafka.Message without an error."""
    headers = message.headers()
    return Record(
        message.topic(),
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        message.key(),
        message.value(),
        {name: value or b"" for name, value in headers} if headers else {},
    )


def commit_unless_reassigned(consumer: Any, offsets: list[TopicPartition]) -> KafkaError | None:
    """Commits offsets; returns the error if another member of the group has the partitions now.

    Raises KafkaException for other errors.
    """
    try:
        consumer.commit(offsets=offsets, asynchronous=False)
    except KafkaException as error:
        if error.args[0].code() not in PARTITION_LOST_ERRORS:
            raise
        return error.args[0]
    return None


@contextmanager
def open_consumer(kafka: KafkaSettings, group_id: str = "liveprofile-cli") -> Iterator[Consumer]:
    """A Consumer that joins no group and commits nothing; the with block closes it."""
    consumer = Consumer(
        client_config(kafka)
        | {
            "group.id": group_id,
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "queued.max.messages.kbytes": 65_536,
        }
    )
    try:
        yield consumer
    finally:
        consumer.close()
