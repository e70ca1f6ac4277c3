"""The dead-letter topic of the alert consumer: copies of records with the reason in headers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from confluent_kafka import Message

from liveprofile.alerts.consumer.delivery import DeliveryFailure
from liveprofile.kafka.records import send_all
from liveprofile.kafka.topics import create_topics
from liveprofile.settings import Settings

# Sends a record to the dead-letter topic. Returns once Kafka has acknowledged it; raises
# ServiceError.
SendDeadLetter = Callable[[Message, DeliveryFailure], None]
# A request to Kafka holds at most a mebibyte. An alert of Liveprofile has a few kilobytes.
MAX_VALUE_BYTES, MAX_KEY_BYTES, MAX_DETAIL_CHARS = 500_000, 1_024, 1_000


def dead_letter_topic(settings: Settings) -> str:
    """Returns the alert topic's name plus "-dead": risk-alerts-dead for risk-alerts."""
    return f"{settings.topics.alerts}-dead"


def dead_letter_sender(settings: Settings) -> SendDeadLetter:
    """Returns a function that copies a record to the dead-letter topic.

    The copy has the same key and value; its headers give the reason and the original position. A
    longer value than MAX_VALUE_BYTES is truncated, and headers give its length and digest.
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
            "detail": failure.detail[:MAX_DETAIL_CHARS],
            "topic": record.topic(),
            "partition": str(record.partition()),
            "offset": str(record.offset()),
        }
        key, value = record.key(), record.value()
        if value is not None and len(value) > MAX_VALUE_BYTES:
            headers |= {
                "truncated": "true",
                "payload_bytes": str(len(value)),
                "payload_sha256": hashlib.sha256(value).hexdigest(),
            }
            value = value[:MAX_VALUE_BYTES]
        send_all(settings, topic, [(key and key[:MAX_KEY_BYTES], value, headers)])

    return send_dead_letter
