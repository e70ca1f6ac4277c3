"""The topics: creation, partitions, offset ranges."""

from __future__ import annotations

from typing import Any, NamedTuple

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic

from liveprofile.config import KafkaSettings, Settings, TopicSettings
from liveprofile.errors import ServiceError
from liveprofile.kafka.connection import client_config, error_text


class NoTopicError(ServiceError):
    """Kafka answers, but has no such topic."""


class PartitionRange(NamedTuple):
    """Offsets [first, end) that a partition holds; first > 0 means that older ones expired."""

    first: int
    end: int


def topic_configs(topics: TopicSettings) -> dict[str, dict[str, str]]:
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
    existing = metadata(admin, settings.kafka).topics
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
    futures = admin.create_topics(wanted, operation_timeout=settings.kafka.request_timeout_s)
    for name, future in futures.items():
        try:
            future.result()
            created.append(name)
        except KafkaException as error:
            # Someone else created it between our look and our request.
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise ServiceError(
                    f"Kafka did not create topic {name}: {error_text(error)}"
                ) from None
    return created


def partitions(
    client: Consumer | Producer | AdminClient, kafka: KafkaSettings, topic: str
) -> list[int]:
    """Raises ServiceError if Kafka does not answer, NoTopicError if it has no such topic."""
    found = metadata(client, kafka, topic).topics.get(topic)
    if found is None or found.error is not None or not found.partitions:
        raise NoTopicError(
            f"Kafka at {kafka.bootstrap_servers} has no topic {topic};"
            " `liveprofile submit` creates the topics"
        )
    return sorted(found.partitions)


def assigned_ranges(
    consumer: Consumer, kafka: KafkaSettings, topic: str
) -> dict[int, PartitionRange]:
    held = {}
    for number in partitions(consumer, kafka, topic):
        try:
            first, end = consumer.get_watermark_offsets(
                TopicPartition(topic, number), timeout=kafka.request_timeout_s
            )
        except KafkaException as error:
            raise ServiceError(
                f"Kafka does not tell the offsets of {topic}/{number}: {error_text(error)}"
            ) from None
        held[number] = PartitionRange(first, end)
    return held


def metadata(client: Any, kafka: KafkaSettings, topic: str | None = None) -> Any:
    try:
        return client.list_topics(topic, timeout=kafka.request_timeout_s)
    except KafkaException as error:
        raise ServiceError(
            f"Kafka at {kafka.bootstrap_servers} does not answer ({error_text(error)});"
            " is it up, and is kafka.bootstrap_servers right?"
        ) from None
