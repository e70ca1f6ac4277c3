"""Committed offsets while the consumer group has no coordinator."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from liveprofile.kafka import offsets

COMMITTED = [TopicPartition("events", 0, 7)]


class FakeConsumer:
    """Raises one error for each of the codes in turn, then answers."""

    def __init__(self, *codes: int):
        self.codes = list(codes)

    def committed(self, requested: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        if self.codes:
            raise KafkaException(KafkaError(self.codes.pop(0)))
        return COMMITTED


def test_group_without_coordinator_is_retried():
    consumer = FakeConsumer(*offsets.COORDINATOR_ERRORS)
    assert offsets._fetch_committed(consumer, COMMITTED, timeout_s=15.0) == COMMITTED


def test_other_error_is_raised_at_once():
    consumer = FakeConsumer(KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.NOT_COORDINATOR)
    with pytest.raises(KafkaException):
        offsets._fetch_committed(consumer, COMMITTED, timeout_s=15.0)
    assert consumer.codes == [KafkaError.NOT_COORDINATOR]
