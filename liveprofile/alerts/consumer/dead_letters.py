"""The dead-letter topic of the alert consumer: unchanged records with the reason in headers."""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import Message

from liveprofile.alerts.consumer.delivery import DeliveryFailure
from liveprofile.config import Settings
from liveprofile.kafka.records import send_all
from liveprofile.kafka.topics import create_topics

# Sends a record to the dead-letter topic. Returns once Kafka has acknowledged it; raises
# ServiceError.
SendDeadLetter = Callable[[Message, DeliveryFailure], None]


def dead_letter_topic(settings: Settings) -> str:
    """Returns the alert topic's name plus "-dead": risk-alerts-dead for risk-alerts."""
    return f"{settings.topics.alerts}-dead"


def dead_letter_sender(settings: Settings) -> SendDeadLetter:
    """Returns a function that copies a record to the dead-letter topic.

    The copy has the same key and value; its headers give the reason and the original position.
    Creates the topic if it is missing. Raises ServiceError.
    """
    topic = dead_letter_topic(settings)
    # The topic gets the same configuration as the alert topic.
    create_topics(
        settings.model_copy(update={"topics": settings.topics.model_copy(update={"alerts": topic})})
    )

    def send_dead_letter(record: Message, failure: DeliveryFailure) -> None:
        headers = {
            "reason": failure.reason,
            "handler": failure.handler,
            "detail": failure.detail,
            "topic": record.topic(),
            "partition": str(record.partition()),
            "offset": str(record.offset()),
        }
        send_all(settings, topic, [(record.key(), record.value(), headers)])

    return send_dead_letter
