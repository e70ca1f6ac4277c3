"""Committed offsets while the consumer group has no coordinator."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, TopicPartition

from liveprofile.errors import ServiceError
from liveprofile.kafka import offsets
from liveprofile.kafka.topics import NoTopicError, partitions
from liveprofile.settings import KafkaSettings, Settings

COMMITTED = [TopicPartition("events", 0, 7), TopicPartition("events", 1, OFFSET_INVALID)]


class FakeConsumer:
    """Raises one error for each of the codes in turn, then answers."""

    def __init__(self, *codes: int):
        self.codes = list(codes)

    def committed(self, requested: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        if self.codes:
            raise KafkaException(KafkaError(self.codes.pop(0)))
        return COMMITTED


def committed(monkeypatch: pytest.MonkeyPatch, consumer: FakeConsumer) -> dict[int, int]:
    monkeypatch.setattr(offsets, "open_consumer", lambda kafka, group: nullcontext(consumer))
    monkeypatch.setattr(offsets, "partitions", lambda client, kafka, topic: [0, 1])
    return offsets.committed_offsets(Settings(), "events")


def test_group_without_coordinator_is_retried(monkeypatch):
    assert committed(monkeypatch, FakeConsumer(*offsets.COORDINATOR_ERRORS)) == {0: 7}


def test_other_error_is_raised_at_once(monkeypatch):
    consumer = FakeConsumer(KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.NOT_COORDINATOR)
    with pytest.raises(ServiceError, match="does not report the offsets of group liveprofile"):
        committed(monkeypatch, consumer)
    assert consumer.codes == [KafkaError.NOT_COORDINATOR]


class FakeClient:
    """Answers with one topic."""

    def __init__(self, error: KafkaError | None, *numbers: int):
        self._topic = SimpleNamespace(error=error, partitions=dict.fromkeys(numbers))

    def list_topics(self, topic: str, timeout: float) -> SimpleNamespace:
        return SimpleNamespace(topics={topic: self._topic})


def test_topic_without_permission_is_an_error_of_its_own() -> None:
    denied = FakeClient(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    with pytest.raises(ServiceError, match=r"topic events: .*authorization failed") as raised:
        partitions(denied, KafkaSettings(), "events")
    assert not isinstance(raised.value, NoTopicError)
    unknown = FakeClient(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    with pytest.raises(NoTopicError, match="has no topic events"):
        partitions(unknown, KafkaSettings(), "events")
    assert partitions(FakeClient(None, 2, 0, 1), KafkaSettings(), "events") == [0, 1, 2]
