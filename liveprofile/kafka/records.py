"""Reads topics up to their present end, and sends records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from confluent_kafka import (
    Consumer,
    KafkaError,
    Producer,
    TopicPartition,
)

from liveprofile.config import KafkaSettings, Settings
from liveprofile.errors import ServiceError
from liveprofile.kafka.connection import client_config
from liveprofile.kafka.topics import PartitionRange, assigned_ranges

# A broker that is there answers a fetch within a second even if the topic is empty.
SILENCE_S = 60.0
FETCH_RECORDS = 10_000
LOOK_EVERY_S = 1.0


class Record(NamedTuple):
    """One Kafka record as read; `timestamp_ms` is the broker's or the producer's, as configured."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]


def read_topic(
    settings: Settings, topic: str, upto: dict[int, PartitionRange] | None = None
) -> Iterator[Record]:
    """Every record from the beginning to the end offsets at call time, or those of `upto`.

    Order holds within a partition only. Committed transactions only. Raises ServiceError.
    """
    with open_consumer(settings.kafka) as consumer:
        held = upto if upto is not None else assigned_ranges(consumer, settings.kafka, topic)
        yield from _read(consumer, settings.kafka, topic, held)


def follow_topic(settings: Settings, topic: str, starts: dict[int, int]) -> Iterator[Record]:
    """Records for ever, each partition from its offset in `starts`. Raises ServiceError."""
    with open_consumer(settings.kafka) as consumer:
        consumer.assign([TopicPartition(topic, *start) for start in starts.items()])
        while True:
            for message in consumer.consume(FETCH_RECORDS, timeout=0.5):
                if message.error() is not None:
                    raise ServiceError(f"reading topic {topic}: {message.error()}")
                yield _record(message)


def send_all(
    settings: Settings,
    topic: str,
    records: Iterable[tuple[bytes | None, bytes | None, dict[str, str]]],
) -> int:
    """Sends (key, value, headers) and waits for every receipt; returns how many.

    Raises ServiceError if one was not taken.
    """
    producer = Producer(
        client_config(settings.kafka)
        | {"partitioner": "murmur2_random", "enable.idempotence": True, "linger.ms": 5}
    )
    errors: list[KafkaError] = []
    count = 0
    for key, value, headers in records:
        producer.produce(
            topic,
            value,
            key,
            headers=dict(headers),
            on_delivery=lambda error, _: errors.append(error) if error is not None else None,
        )
        count += 1
        if count % 10_000 == 0:
            producer.flush()
    producer.flush()
    if errors:
        raise ServiceError(
            f"Kafka did not take {len(errors)} of {count} records for {topic}: {errors[0].str()}"
        )
    return count


def _read(
    consumer: Consumer, kafka: KafkaSettings, topic: str, held: dict[int, PartitionRange]
) -> Iterator[Record]:
    open_partitions = {number for number, part in held.items() if part.end > part.first}
    if not open_partitions:
        return
    consumer.assign(
        [TopicPartition(topic, number, held[number].first) for number in sorted(open_partitions)]
    )
    silent_s = 0.0
    while open_partitions:
        messages = consumer.consume(FETCH_RECORDS, timeout=0.5)
        silent_s = 0.0 if messages else silent_s + 0.5
        if silent_s >= SILENCE_S:
            raise ServiceError(
                f"reading topic {topic}: Kafka at {kafka.bootstrap_servers} sent nothing for"
                f" {SILENCE_S:.0f} s, partitions {sorted(open_partitions)} are not at their end"
            )
        for message in messages:
            if message.error() is not None:
                raise ServiceError(f"reading topic {topic}: {message.error()}")
            if message.offset() < held[message.partition()].end:
                yield _record(message)
        # By position, not by the last record: a transaction's markers take offsets too.
        places = [TopicPartition(topic, number) for number in open_partitions]
        for place in consumer.position(places):
            if place.offset >= held[place.partition].end:
                open_partitions.discard(place.partition)


def _record(message: Any) -> Record:
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


@contextmanager
def open_consumer(kafka: KafkaSettings, group_id: str = "liveprofile-cli") -> Iterator[Consumer]:
    """A Consumer that joins no group and commits nothing, closed at the end."""
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
