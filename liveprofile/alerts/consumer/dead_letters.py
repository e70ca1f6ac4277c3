"""The topic of alerts that could not be dealt with: each whole, with the reason in its headers."""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import Message

from liveprofile.alerts.consumer.delivery import Failure
from liveprofile.config import Settings
from liveprofile.kafka.records import send_all
from liveprofile.kafka.topics import create_topics

# Puts a record aside for good: returns once Kafka has it, raises ServiceError.
PutAside = Callable[[Message, Failure], None]


def dead_letter_topic(settings: Settings) -> str:
    """risk-alerts-dead, if the topic of alerts is risk-alerts."""
    return f"{settings.topics.alerts}-dead"


def dead_letters(settings: Settings) -> PutAside:
    """Sends a record to the dead-letter topic, byte for byte, with the reason in its headers.

    Creates the topic if it is missing. Raises ServiceError.
    """
    topic = dead_letter_topic(settings)
    # The same configuration as of the topic of alerts.
    create_topics(
        settings.model_copy(update={"topics": settings.topics.model_copy(update={"alerts": topic})})
    )

    def put_aside(record: Message, failure: Failure) -> None:
        headers = {
            "reason": failure.reason,
            "handler": failure.handler,
            "detail": failure.detail,
            "topic": record.topic(),
            "partition": str(record.partition()),
            "offset": str(record.offset()),
        }
        send_all(settings, topic, [(record.key(), record.value(), headers)])

    return put_aside
