"""A topic of definitions in memory, with writers that fence each other as those of Kafka do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from liveprofile.feeds.definitions import TopicDefinitions
from tests.support.memory.kafka import MemoryKafka


class FakeDefinitionTopic:
    """Keeps the written records. `name`: of the topic. `new`: makes its definitions from settings.

    `after_read`: called once after the next read, as if somebody else did something.
    """

    def __init__(self, name: str, new: Callable[[Any], TopicDefinitions]) -> None:
        kafka, self._new = MemoryKafka(), new
        self.records, self.exclusive_writer = kafka.records[name], kafka.exclusive_writer
        self.created = 0
        self.after_read: Callable[[], None] | None = None

    def read(self, settings: Any) -> TopicDefinitions:
        found = self._new(settings)
        found.apply(self.records)
        action, self.after_read = self.after_read, None
        if action is not None:
            action()
        return found

    def create_topics(self, settings: Any) -> list[str]:
        self.created += 1
        return []
