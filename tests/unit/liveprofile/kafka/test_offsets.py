"""What the command line does when Kafka has no answer yet."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from liveprofile.kafka import offsets

PLACES = [TopicPartition("events", 0, 7)]


class FakeConsumer:
    """Raises an error of each of these codes in turn, then answers."""

    def __init__(self, *codes: int):
        self.codes = list(codes)

    def committed(self, wanted: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        if self.codes:
            raise KafkaException(KafkaError(self.codes.pop(0)))
        return PLACES


def test_a_group_without_coordinator_is_asked_again():
    consumer = FakeConsumer(*offsets.FINDING_COORDINATOR)
    assert offsets._committed(consumer, PLACES, timeout_s=15.0) == PLACES


def test_what_is_no_such_fault_is_told_at_once():
    consumer = FakeConsumer(KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.NOT_COORDINATOR)
    with pytest.raises(KafkaException):
        offsets._committed(consumer, PLACES, timeout_s=15.0)
    assert consumer.codes == [KafkaError.NOT_COORDINATOR]
