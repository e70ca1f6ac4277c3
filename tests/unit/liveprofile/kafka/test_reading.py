"""Committed offsets without a coordinator, and partitions added to a topic that is followed."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_INVALID,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from liveprofile.errors import ServiceError
from liveprofile.kafka import offsets
from liveprofile.kafka.tail import TopicTail
from liveprofile.kafka.topics import NoTopicError, partitions
from liveprofile.privacy.erasures import to_record
from liveprofile.settings import KafkaSettings, Settings, load
from liveprofile.wire.user_records import key_of
from tests.support.memory.kafka import message

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


TIME_MS = 1_767_605_700_000
TOPIC = "user-erasures"
END = SimpleNamespace(code=lambda: KafkaError._PARTITION_EOF, str=lambda: "end")


class MemoryConsumer:
    """A Consumer of a topic in memory: users who are erased, by partition."""

    def __init__(self) -> None:
        self.topic: list[list[str]] = [["a"]]
        self.is_down = False
        self._next: dict[int, int] = {}

    def list_topics(self, topic: str, timeout: float) -> Any:
        if self.is_down:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        found = SimpleNamespace(error=None, partitions=dict(enumerate(self.topic)))
        return SimpleNamespace(topics={TOPIC: found} if self.topic else {})

    def incremental_assign(self, added: list[TopicPartition]) -> None:
        for each in added:
            assert each.offset == OFFSET_BEGINNING and each.partition not in self._next
            self._next[each.partition] = 0

    def consume(self, count: int, timeout: float) -> list[Any]:
        for partition, offset in self._next.items():
            users = self.topic[partition]
            if offset <= len(users):
                self._next[partition] += 1
                if offset == len(users):
                    return [message(TOPIC, partition, offset, None, error=END)]
                user_id = users[offset]
                value, key = to_record(user_id, TIME_MS), key_of(user_id)
                return [message(TOPIC, partition, offset, value, key, TIME_MS)]
        return []

    def close(self) -> None: ...


@pytest.fixture
def consumer() -> MemoryConsumer:
    return MemoryConsumer()


def open_source(consumer: MemoryConsumer, check_s: float = 0.0) -> TopicTail:
    return TopicTail(load(), TOPIC, "group", None, lambda config: consumer, check_s)


def read(source: TopicTail) -> list[str]:
    found = []
    while not source.caught_up:
        found += [(record.key or b"").decode() for record in source.poll(0.0)]
    return found


def test_a_partition_that_is_added_is_read_from_its_beginning(consumer: MemoryConsumer) -> None:
    source = open_source(consumer)
    assert read(source) == ["a"]
    consumer.topic += [["b", "c", "d"], []]
    source.poll(0.0)
    assert not source.caught_up and read(source) == ["d"]
    assert source.poll(0.0) == [] and source.caught_up


def test_a_broker_that_does_not_answer_ends_nothing(
    consumer: MemoryConsumer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "liveprofile.kafka")  # a command in this process silences it
    source = open_source(consumer)
    assert read(source) == ["a"]
    consumer.is_down = True
    assert source.poll(0.0) == [] and "are there new partitions?" in caplog.text
    consumer.is_down = False
    consumer.topic.append(["b"])
    assert [record.key for record in source.poll(0.0)] == [b"b"]


def test_a_topic_that_does_not_exist_is_an_error(consumer: MemoryConsumer) -> None:
    consumer.topic.clear()
    with pytest.raises(NoTopicError):
        open_source(consumer)
