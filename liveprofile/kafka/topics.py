"""Topics: creation, deletion, partitions, and offset ranges."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic

from liveprofile.errors import ServiceError
from liveprofile.kafka.connection import client_config, error_text, service_error
from liveprofile.retry import until_deadline
from liveprofile.settings import TOPICS, KafkaSettings, Settings, TopicSettings

# A topic that has just been created has no leaders for a moment.
LEADER_ERRORS = (KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION)


class NoTopicError(ServiceError):
    """Kafka answers but does not have the topic."""


# More than one, because offsets of transaction markers hold no record.
TIME_SAMPLE_RECORDS = 100


class PartitionRange(NamedTuple):
    """Offsets [first, end) in a partition; first > 0 means that older records have expired."""

    first: int
    end: int

    def beginning(self) -> PartitionRange:
        """The offsets of the first records, whose timestamps tell when the range begins."""
        return PartitionRange(self.first, min(self.end, self.first + TIME_SAMPLE_RECORDS))


def topic_configs(topics: TopicSettings) -> dict[str, dict[str, str]]:
    """Topic names with the configuration to create each topic with.

    Every topic stamps records on arrival (LogAppendTime). Retention and the check for future
    events use the record time, and the job's sinks would stamp event time, which for replayed
    history is already older than any retention.

    With three replicas, a record counts as written when two have it: Kafka's default, one, loses
    acknowledged records with that broker.
    """
    common = {"message.timestamp.type": "LogAppendTime"}
    if topics.replication >= 3:
        common["min.insync.replicas"] = "2"

    configs = {}
    for field, topic in TOPICS.items():
        kept = {"retention.ms": str(getattr(topics, topic.limit))} if topic.limit else {}
        configs[getattr(topics, field)] = common | {"cleanup.policy": topic.policy()} | kept
    return configs


def partition_count(topics: TopicSettings, name: str) -> int:
    """The number of partitions to create a topic with.

    One for definitions and models: few records, of which all readers see one order.
    """
    return 1 if name in (topics.rules, topics.segments, topics.models) else topics.partitions


def create_topics(
    settings: Settings, configs: Mapping[str, dict[str, str]] | None = None
) -> list[str]:
    """Creates the missing topics and returns their names. Raises ServiceError.

    configs: of topics by name; None: all topics of the settings.
    """
    admin = AdminClient(client_config(settings.kafka))
    return _create(admin, settings.kafka, _missing(settings, admin, configs))


def missing_topics(settings: Settings) -> list[str]:
    """The names of the topics that `create_topics` would create. Raises ServiceError."""
    admin = AdminClient(client_config(settings.kafka))
    return [new.topic for new in _missing(settings, admin)]


def _missing(
    settings: Settings, admin: AdminClient, configs: Mapping[str, dict[str, str]] | None = None
) -> list[NewTopic]:
    topics = settings.topics
    existing = metadata(admin, settings.kafka).topics
    return [
        NewTopic(name, partition_count(topics, name), topics.replication, config=config)
        for name, config in (configs or topic_configs(topics)).items()
        if name not in existing
    ]


def create_unlimited_topic(settings: Settings, name: str, partition_count: int) -> None:
    """Creates a topic that keeps its records until it is deleted; returns when a broker knows it.

    Raises ServiceError, also if the topic exists.
    """
    topics = settings.topics.model_copy(update={"retention_ms": -1})
    config = topic_configs(topics)[topics.events]
    new = NewTopic(name, partition_count, topics.replication, config=config)
    admin = AdminClient(client_config(settings.kafka))
    if not _create(admin, settings.kafka, [new]):
        raise ServiceError(f"Kafka did not create topic {name}: it exists")
    deadline_s = time.monotonic() + settings.kafka.request_timeout_s
    while name not in metadata(admin, settings.kafka).topics and time.monotonic() < deadline_s:
        time.sleep(0.1)


def _create(admin: AdminClient, kafka: KafkaSettings, missing: list[NewTopic]) -> list[str]:
    if not missing:
        return []
    created = []
    futures = admin.create_topics(missing, operation_timeout=kafka.request_timeout_s)
    for name, future in futures.items():
        try:
            future.result()
            created.append(name)
        except KafkaException as error:
            # Another client may have created the topic since the metadata request.
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise ServiceError(
                    f"Kafka did not create topic {name}: {error_text(error)}"
                ) from None
    return created


def delete_topics(kafka: KafkaSettings, names: Sequence[str]) -> None:
    """Deletes those of the topics that exist, with their records. Raises ServiceError."""
    admin = AdminClient(client_config(kafka))
    existing = metadata(admin, kafka).topics
    present = [name for name in names if name in existing]
    if not present:
        return
    futures = admin.delete_topics(present, operation_timeout=kafka.request_timeout_s)
    for name, future in futures.items():
        try:
            future.result()
        except KafkaException as error:
            raise service_error(
                f"Kafka did not delete topic {name}: {error_text(error)}", error
            ) from None


def topic_ids(settings: Settings, names: Collection[str]) -> dict[str, str]:
    """Kafka's ids of topics, others after they were deleted and created. Raises ServiceError."""
    admin = AdminClient(client_config(settings.kafka))
    timeout_s = settings.kafka.request_timeout_s
    found = admin.describe_topics(TopicCollection(list(names)), request_timeout=timeout_s)
    try:
        return {name: str(future.result().topic_id) for name, future in found.items()}
    except KafkaException as error:
        raise service_error(
            f"Kafka does not describe {', '.join(names)}: {error_text(error)}", error
        ) from None


def partitions(
    client: Consumer | Producer | AdminClient, kafka: KafkaSettings, topic: str
) -> list[int]:
    """The partition numbers of a topic, ascending.

    Raises ServiceError if Kafka does not answer or does not allow it, NoTopicError if it does not
    have the topic.
    """
    topic_metadata = metadata(client, kafka, topic).topics.get(topic)
    error = topic_metadata and topic_metadata.error
    if error is not None and error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        raise ServiceError(f"Kafka at {kafka.bootstrap_servers}: topic {topic}: {error.str()}")
    if topic_metadata is None or error is not None or not topic_metadata.partitions:
        raise NoTopicError(
            f"Kafka at {kafka.bootstrap_servers} has no topic {topic};"
            " `liveprofile job submit` creates the topics"
        )
    return sorted(topic_metadata.partitions)


def query_ranges(consumer: Consumer, kafka: KafkaSettings, topic: str) -> dict[int, PartitionRange]:
    """The present offset range of each partition of the topic. Raises ServiceError."""
    ranges, timeout_s = {}, kafka.request_timeout_s
    for number in partitions(consumer, kafka, topic):
        place = TopicPartition(topic, number)
        try:
            first, end = until_deadline(
                lambda place=place: consumer.get_watermark_offsets(place, timeout=timeout_s),
                timeout_s,
                _lacks_leader,
            )
        except KafkaException as error:
            raise service_error(
                f"Kafka does not report the offsets of {topic}/{number}: {error_text(error)}", error
            ) from None
        ranges[number] = PartitionRange(first, end)
    return ranges


def _lacks_leader(error: BaseException) -> bool:
    return isinstance(error, KafkaException) and error.args[0].code() in LEADER_ERRORS


def metadata(client: Any, kafka: KafkaSettings, topic: str | None = None) -> Any:
    """Cluster metadata, of one topic or of all. Raises ServiceError if Kafka does not answer."""
    try:
        return client.list_topics(topic, timeout=kafka.request_timeout_s)
    except KafkaException as error:
        raise service_error(
            f"Kafka at {kafka.bootstrap_servers} does not answer ({error_text(error)});"
            " is it up, and is kafka.bootstrap_servers right?",
            error,
        ) from None
