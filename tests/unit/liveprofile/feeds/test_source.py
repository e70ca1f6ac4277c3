"""Records of partitions that are added while a topic is followed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from liveprofile.kafka.tail import TopicTail
from liveprofile.kafka.topics import NoTopicError
from liveprofile.privacy.erasures import to_record
from liveprofile.settings import load
from liveprofile.wire.user_records import key_of
from tests.support.memory.kafka import message

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
