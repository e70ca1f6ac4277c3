"""Kafka for the command line: client settings, topics, reading a topic up to its present end."""

from __future__ import annotations

import logging
import time

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from liveprofile.config import KafkaSettings, Settings
from liveprofile.errors import ServiceError
from liveprofile.kafka.connection import error_text
from liveprofile.kafka.records import LOOK_EVERY_S, open_consumer
from liveprofile.kafka.topics import PartitionRange, assigned_ranges, partitions

log = logging.getLogger(__name__)

# A group that is new, or a broker that has just started, has no coordinator for a moment.
FINDING_COORDINATOR = (
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
)
COORDINATOR_DELAY_S = 0.2


def ranges(settings: Settings, topic: str) -> dict[int, PartitionRange]:
    """What each partition of the topic holds now. Raises ServiceError."""
    with open_consumer(settings.kafka) as consumer:
        return assigned_ranges(consumer, settings.kafka, topic)


def scoring_group(kafka: KafkaSettings) -> str:
    """The consumer group of the event lane."""
    return f"{kafka.group_id}-events"


def committed_offsets(
    settings: Settings, topic: str, group_id: str | None = None
) -> dict[int, int]:
    """What the group committed, which is its lane's last checkpoint; no entry if it never did.

    group_id: None: of the profile lane
    """
    group_id = group_id or settings.kafka.group_id
    with open_consumer(settings.kafka, group_id) as consumer:
        wanted = [
            TopicPartition(topic, number) for number in partitions(consumer, settings.kafka, topic)
        ]
        try:
            found = _committed(consumer, wanted, settings.kafka.request_timeout_s)
        except KafkaException as error:
            raise ServiceError(
                f"Kafka does not tell the offsets of group {group_id}: {error_text(error)}"
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


def scoring_lag(settings: Settings) -> int:
    """How many events and labels the event lane's last checkpoint does not cover."""
    topics = (settings.topics.events, settings.topics.feedback)
    return sum(lag(settings, scoring_group(settings.kafka), topic) for topic in topics)


def wait_for_scoring(settings: Settings, timeout_s: float) -> None:
    """Returns when it has scored all that was sent before. Raises ServiceError."""
    deadline_s = time.monotonic() + timeout_s
    while behind := scoring_lag(settings):
        if time.monotonic() > deadline_s:
            raise ServiceError(f"the event lane is {behind} records behind")
        time.sleep(LOOK_EVERY_S)
