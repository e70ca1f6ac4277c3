"""Kafka for the command line: client settings, topics, reading a topic up to its present end."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from liveprofile.config import Kafka, Settings, Topics
from liveprofile.errors import ServiceError

log = logging.getLogger(__name__)

# A group that is new, or a broker that has just started, has no coordinator for a moment.
FINDING_COORDINATOR = (
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
)
COORDINATOR_DELAY_S = 0.2
# A broker that is there answers a fetch within a second even if the topic is empty.
SILENCE_S = 60.0
FETCH_RECORDS = 10_000
LOOK_EVERY_S = 1.0


class NoTopicError(ServiceError):
    """Kafka answers, but has no such topic."""


class Record(NamedTuple):
    """One Kafka record as read; `timestamp_ms` is the broker's or the producer's, as configured."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]


class PartitionRange(NamedTuple):
    """Offsets [first, end) that a partition holds; first > 0 means that older ones expired."""

    first: int
    end: int


def client_config(kafka: Kafka) -> dict[str, Any]:
    """What every confluent-kafka client of ours starts from: servers and security."""
    config: dict[str, Any] = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "security.protocol": kafka.security_protocol,
        "client.id": "liveprofile-cli",
        # Otherwise librdkafka prints a line of its own for each failed connection.
        "logger": log,
    }
    if kafka.security_protocol.startswith("SASL"):
        config |= {
            "sasl.mechanism": kafka.sasl_mechanism,
            "sasl.username": kafka.username,
            "sasl.password": kafka.password.get_secret_value(),
        }
    if kafka.ca_file:
        config["ssl.ca.location"] = kafka.ca_file
    return config


def topic_configs(topics: Topics) -> dict[str, dict[str, str]]:
    """The topics and the configuration each is created with.

    Every topic stamps records on arrival (LogAppendTime): retention and the check for future
    events go by record time, and the job's sinks would stamp event time, which for replayed
    history is already past any retention.
    """
    config = {
        "cleanup.policy": "delete",
        "retention.ms": str(topics.retention_ms),
        "message.timestamp.type": "LogAppendTime",
    }
    names = (topics.events, topics.rejected, topics.late, topics.alerts)
    labels = config | {"retention.ms": str(topics.feedback_retention_ms)}
    compacted = {
        "cleanup.policy": "compact",
        "message.timestamp.type": "LogAppendTime",
    }
    own = {topics.rules: compacted, topics.feedback: labels}
    return {name: dict(config) for name in names} | own


def create_topics(settings: Settings) -> list[str]:
    """Creates the topics that are missing and returns their names. Raises ServiceError."""
    topics = settings.topics
    admin = AdminClient(client_config(settings.kafka))
    existing = _metadata(admin, settings.kafka).topics
    wanted = [
        # One partition for rules: few records, and one order of them for every reader.
        NewTopic(
            name,
            1 if name == topics.rules else topics.partitions,
            topics.replication,
            config=config,
        )
        for name, config in topic_configs(topics).items()
        if name not in existing
    ]
    if not wanted:
        return []
    created = []
    futures = admin.create_topics(wanted, operation_timeout=settings.kafka.answer_timeout_s)
    for name, future in futures.items():
        try:
            future.result()
            created.append(name)
        except KafkaException as error:
            # Someone else created it between our look and our request.
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise ServiceError(f"Kafka did not create topic {name}: {_text(error)}") from None
    return created


def partitions(client: Consumer | Producer | AdminClient, kafka: Kafka, topic: str) -> list[int]:
    """Raises ServiceError if Kafka does not answer, NoTopicError if it has no such topic."""
    found = _metadata(client, kafka, topic).topics.get(topic)
    if found is None or found.error is not None or not found.partitions:
        raise NoTopicError(
            f"Kafka at {kafka.bootstrap_servers} has no topic {topic};"
            " `liveprofile submit` creates the topics"
        )
    return sorted(found.partitions)


def ranges(settings: Settings, topic: str) -> dict[int, PartitionRange]:
    """What each partition of the topic holds now. Raises ServiceError."""
    with _consumer(settings.kafka) as consumer:
        return _ranges(consumer, settings.kafka, topic)


def event_group(kafka: Kafka) -> str:
    """The consumer group of the event lane."""
    return f"{kafka.group_id}-events"


def committed_offsets(
    settings: Settings, topic: str, group_id: str | None = None
) -> dict[int, int]:
    """What the group committed, which is its lane's last checkpoint; no entry if it never did.

    group_id: None: of the profile lane
    """
    group_id = group_id or settings.kafka.group_id
    with _consumer(settings.kafka, group_id) as consumer:
        wanted = [
            TopicPartition(topic, number) for number in partitions(consumer, settings.kafka, topic)
        ]
        try:
            found = _committed(consumer, wanted, settings.kafka.answer_timeout_s)
        except KafkaException as error:
            raise ServiceError(
                f"Kafka does not tell the offsets of group {group_id}: {_text(error)}"
            ) from None
    return {place.partition: place.offset for place in found if place.offset != OFFSET_INVALID}


def _is_finding_coordinator(error: BaseException) -> bool:
    return isinstance(error, KafkaException) and error.args[0].code() in FINDING_COORDINATOR


def _committed(
    consumer: Consumer, wanted: list[TopicPartition], timeout_s: float
) -> list[TopicPartition]:
    """Asks again while the group's coordinator is being found."""
    asking = Retrying(
        retry=retry_if_exception(_is_finding_coordinator),
        stop=stop_after_delay(timeout_s),
        wait=wait_fixed(COORDINATOR_DELAY_S),
        reraise=True,
    )
    return asking(consumer.committed, wanted, timeout=timeout_s)


def lag(settings: Settings, group_id: str | None = None, topic: str | None = None) -> int:
    """How many records of a topic the lane's last checkpoint does not cover. Raises ServiceError.

    group_id: None: of the profile lane; topic: None: the input
    """
    topic = topic or settings.topics.events
    committed = committed_offsets(settings, topic, group_id)
    return sum(
        held.end - max(held.first, committed.get(partition, 0))
        for partition, held in ranges(settings, topic).items()
    )


def event_lag(settings: Settings) -> int:
    """How many events and labels the event lane's last checkpoint does not cover."""
    topics = (settings.topics.events, settings.topics.feedback)
    return sum(lag(settings, event_group(settings.kafka), topic) for topic in topics)


def wait_for_event_lane(settings: Settings, timeout_s: float) -> None:
    """Returns when it has scored all that was sent before. Raises ServiceError."""
    deadline_s = time.monotonic() + timeout_s
    while behind := event_lag(settings):
        if time.monotonic() > deadline_s:
            raise ServiceError(f"the event lane is {behind} records behind")
        time.sleep(LOOK_EVERY_S)


def read_topic(
    settings: Settings, topic: str, upto: dict[int, PartitionRange] | None = None
) -> Iterator[Record]:
    """Every record from the beginning to the end offsets at call time, or those of `upto`.

    Order holds within a partition only. Committed transactions only. Raises ServiceError.
    """
    with _consumer(settings.kafka) as consumer:
        held = upto if upto is not None else _ranges(consumer, settings.kafka, topic)
        yield from _read(consumer, settings.kafka, topic, held)


def follow_topic(settings: Settings, topic: str, starts: dict[int, int]) -> Iterator[Record]:
    """Records for ever, each partition from its offset in `starts`. Raises ServiceError."""
    with _consumer(settings.kafka) as consumer:
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
    consumer: Consumer, kafka: Kafka, topic: str, held: dict[int, PartitionRange]
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
def _consumer(kafka: Kafka, group_id: str = "liveprofile-cli") -> Iterator[Consumer]:
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


def _ranges(consumer: Consumer, kafka: Kafka, topic: str) -> dict[int, PartitionRange]:
    held = {}
    for number in partitions(consumer, kafka, topic):
        try:
            first, end = consumer.get_watermark_offsets(
                TopicPartition(topic, number), timeout=kafka.answer_timeout_s
            )
        except KafkaException as error:
            raise ServiceError(
                f"Kafka does not tell the offsets of {topic}/{number}: {_text(error)}"
            ) from None
        held[number] = PartitionRange(first, end)
    return held


def _metadata(client: Any, kafka: Kafka, topic: str | None = None) -> Any:
    try:
        return client.list_topics(topic, timeout=kafka.answer_timeout_s)
    except KafkaException as error:
        raise ServiceError(
            f"Kafka at {kafka.bootstrap_servers} does not answer ({_text(error)});"
            " is it up, and is kafka.bootstrap_servers right?"
        ) from None


def _text(error: KafkaException) -> str:
    return error.args[0].str() if error.args else str(error)
