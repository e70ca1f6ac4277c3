"""A topic that the client may not read is not a missing topic."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError

from liveprofile.errors import ServiceError
from liveprofile.kafka.topics import NoTopicError, partitions
from liveprofile.settings import KafkaSettings


class FakeClient:
    """Answers with one topic."""

    def __init__(self, error: KafkaError | None, *numbers: int):
        self._topic = SimpleNamespace(error=error, partitions=dict.fromkeys(numbers))

    def list_topics(self, topic: str, timeout: float) -> SimpleNamespace:
        return SimpleNamespace(topics={topic: self._topic})


def test_partitions_are_ascending() -> None:
    assert partitions(FakeClient(None, 2, 0, 1), KafkaSettings(), "events") == [0, 1, 2]


def test_unknown_topic_is_missing() -> None:
    unknown = FakeClient(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    with pytest.raises(NoTopicError, match="has no topic events"):
        partitions(unknown, KafkaSettings(), "events")


def test_topic_without_permission_is_an_error_of_its_own() -> None:
    denied = FakeClient(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    with pytest.raises(ServiceError, match=r"topic events: .*authorization failed") as raised:
        partitions(denied, KafkaSettings(), "events")
    assert not isinstance(raised.value, NoTopicError)
