"""A topic of definitions in memory, with writers that fence each other as those of Kafka do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from liveprofile.feeds.definitions import TopicDefinitions
from liveprofile.kafka.records import Record, Send, WriterFencedError


class FakeDefinitionTopic:
    """Keeps the written records. `name`: of the topic. `new`: makes its definitions from settings.

    `after_read`: called once after the next read, as if somebody else did something.
    """

    def __init__(self, name: str, new: Callable[[Any], TopicDefinitions]) -> None:
        self._name, self._new = name, new
        self.records: list[Record] = []
        self.created = 0
        self.writers = 0
        self.after_read: Callable[[], None] | None = None

    def read(self, settings: Any) -> TopicDefinitions:
        found = self._new(settings)
        found.apply(self.records)
        action, self.after_read = self.after_read, None
        if action is not None:
            action()
        return found

    @contextmanager
    def exclusive_writer(self, settings: Any, topic: str) -> Iterator[Send]:
        assert topic == self._name
        self.writers += 1
        own = self.writers

        def send(records: Any) -> None:
            if own != self.writers:
                raise WriterFencedError("another writer was opened")
            self.records += [self._record(*record) for record in records]

        yield send

    def create_topics(self, settings: Any) -> list[str]:
        self.created += 1
        return []

    def _record(self, key: bytes, value: bytes | None, headers: dict[str, str]) -> Record:
        as_read = {name: text.encode() for name, text in headers.items()}
        return Record(self._name, 0, len(self.records), 0, key, value, as_read)
