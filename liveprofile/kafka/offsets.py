"""Offset ranges of topics, committed offsets of consumer groups, and lag."""

import time

from confluent_kafka import (
    OFFSET_END,
    OFFSET_INVALID,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from liveprofile.errors import ServiceError
from liveprofile.kafka.connection import error_text, service_error
from liveprofile.kafka.records import POLL_INTERVAL_S, Progress, open_consumer
from liveprofile.kafka.topics import PartitionRange, partitions, query_ranges
from liveprofile.retry import until_deadline
from liveprofile.settings import KafkaSettings, Settings

# A new group or a broker that has just started has no coordinator for a moment.
COORDINATOR_ERRORS = (
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
)


def partition_ranges(settings: Settings, topic: str) -> dict[int, PartitionRange]:
    """The present offset range of each partition of the topic. Raises ServiceError."""
    with open_consumer(settings.kafka) as consumer:
        return query_ranges(consumer, settings.kafka, topic)


def offsets_at(settings: Settings, topic: str, time_ms: int) -> dict[int, int]:
    """The offset of each partition's first record with this record timestamp or a later one.

    It is the partition's end if there is none. Raises ServiceError.
    """
    with open_consumer(settings.kafka) as consumer:
        # Read first: a record that arrives between the two requests is not before its offset.
        ranges = query_ranges(consumer, settings.kafka, topic)
        requested = [TopicPartition(topic, number, time_ms) for number in ranges]
        try:
            found = consumer.offsets_for_times(requested, timeout=settings.kafka.request_timeout_s)
        except KafkaException as error:
            raise service_error(
                f"Kafka does not report the offsets of {topic} by time: {error_text(error)}", error
            ) from None
    return {
        one.partition: ranges[one.partition].end if one.offset == OFFSET_END else one.offset
        for one in found
    }


def ranges_since(settings: Settings, topic: str, time_ms: int | None) -> dict[int, PartitionRange]:
    """The offset range of each partition from this record timestamp on; None: all of it.

    Raises ServiceError.
    """
    ranges = partition_ranges(settings, topic)
    if time_ms is None:
        return ranges
    starts = offsets_at(settings, topic, time_ms)
    return {
        number: PartitionRange(max(span.first, starts[number]), max(span.end, starts[number]))
        for number, span in ranges.items()
    }


def scoring_group(kafka: KafkaSettings) -> str:
    """The consumer group of the scoring pipeline."""
    return f"{kafka.group_id}-events"


def decoder_group(kafka: KafkaSettings) -> str:
    """The consumer group of `liveprofile events decode`."""
    return f"{kafka.group_id}-decoder"


def login_group(kafka: KafkaSettings) -> str:
    """The consumer group of `liveprofile identity link-logins`, and its transactional id."""
    return f"{kafka.group_id}-logins"


def bootstrap_group(kafka: KafkaSettings) -> str:
    """The consumer group of a job over an archive.

    Its offsets in the events topic are those where the job that went on from the archive started.
    """
    return f"{kafka.group_id}-bootstrap"


def commit_offsets(settings: Settings, topic: str, group_id: str, offsets: dict[int, int]) -> None:
    """Commits offsets by partition for a group without a running consumer. Raises ServiceError."""
    positions = [TopicPartition(topic, *position) for position in offsets.items()]
    with open_consumer(settings.kafka, group_id) as consumer:
        try:
            until_deadline(
                lambda: consumer.commit(offsets=positions, asynchronous=False),
                settings.kafka.request_timeout_s,
                _lacks_coordinator,
            )
        except KafkaException as error:
            raise service_error(
                f"Kafka does not commit the offsets of group {group_id}: {error_text(error)}", error
            ) from None


def committed_offsets(
    settings: Settings, topic: str, group_id: str | None = None
) -> dict[int, int]:
    """Committed offsets by partition: those of the pipeline's last Flink checkpoint.

    A partition without a committed offset has no entry. `group_id`: None means the profile
    pipeline's group. Raises ServiceError.
    """
    found = committed_progress(settings, topic, group_id or settings.kafka.group_id)
    return {partition: progress.offset for partition, progress in found.items()}


def committed_progress(settings: Settings, topic: str, group_id: str) -> dict[int, Progress]:
    """Committed offsets by partition, each with the note beside it. Raises ServiceError."""
    with open_consumer(settings.kafka, group_id) as consumer:
        numbers = partitions(consumer, settings.kafka, topic)
        requested = [TopicPartition(topic, number) for number in numbers]
        timeout_s = settings.kafka.request_timeout_s
        try:
            committed = until_deadline(
                lambda: consumer.committed(requested, timeout=timeout_s),
                timeout_s,
                _lacks_coordinator,
            )
        except KafkaException as error:
            raise service_error(
                f"Kafka does not report the offsets of group {group_id}: {error_text(error)}", error
            ) from None
    return {
        position.partition: Progress(position.offset, position.metadata or "")
        for position in committed
        if position.offset != OFFSET_INVALID
    }


def _lacks_coordinator(error: BaseException) -> bool:
    return isinstance(error, KafkaException) and error.args[0].code() in COORDINATOR_ERRORS


def lag(settings: Settings, group_id: str | None = None, topic: str | None = None) -> int:
    """Number of records of a topic after the pipeline's last Flink checkpoint.

    `group_id`: None means the profile pipeline's group. `topic`: None means the events topic.
    Raises ServiceError.
    """
    topic = topic or settings.topics.events
    committed = committed_offsets(settings, topic, group_id)
    return sum(
        span.end - max(span.first, committed.get(partition, 0))
        for partition, span in partition_ranges(settings, topic).items()
    )


def scoring_lag(settings: Settings) -> int:
    """Number of events and labels after the scoring pipeline's last Flink checkpoint."""
    topics = (settings.topics.events, settings.topics.feedback)
    return sum(lag(settings, scoring_group(settings.kafka), topic) for topic in topics)


def wait_for_scoring(settings: Settings, timeout_s: float) -> None:
    """Waits until the scoring pipeline has read and committed all present events and labels.

    Raises ServiceError after `timeout_s`.
    """
    deadline_s = time.monotonic() + timeout_s
    while records := scoring_lag(settings):
        if time.monotonic() > deadline_s:
            raise ServiceError(f"the scoring pipeline is {records} records behind")
        time.sleep(POLL_INTERVAL_S)
