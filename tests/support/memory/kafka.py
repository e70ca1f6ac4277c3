"""Kafka's topics in memory, for what reads topics to their end and sends records."""

from __future__ import annotations

import functools
import queue
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaException, TopicPartition

from intake import labels as feedback
from intake.files import rejected
from liveprofile.feeds import definition_topics as definitions
from liveprofile.feeds import feed
from liveprofile.kafka import offsets, records, tail, topics
from liveprofile.kafka.records import Record, WriterFencedError
from liveprofile.kafka.topics import PartitionRange
from liveprofile.storage.cql import now_ms
from liveprofile.wire.user_records import WHOLE_KEY


def message(
    topic: str,
    partition: int,
    offset: int,
    value: bytes | None,
    key: bytes = b"key",
    timestamp_ms: int = 0,
    error: Any = None,
) -> SimpleNamespace:
    """What a confluent_kafka.Consumer returns: a function for each field."""
    fields = {"topic": topic, "partition": partition, "offset": offset, "value": value, "key": key}
    fields |= {"timestamp": (2, timestamp_ms), "error": error, "headers": None}
    return SimpleNamespace(**{name: lambda field=each: field for name, each in fields.items()})


class FakeConsumer:
    """A confluent_kafka.Consumer of the values of each partition; it records the commits.

    It calls `on_empty` after the last record, and `while_paused` while it is paused.
    """

    def __init__(
        self,
        topic: str,
        *partitions: list[bytes | None],
        key: bytes = b"key",
        timestamp_ms: int = 0,
    ):
        self.topic = topic
        self.messages = [
            message(topic, number, offset, value, key, timestamp_ms)
            for number, values in enumerate(partitions)
            for offset, value in enumerate(values)
        ]
        self.committed: dict[int, int] = {}
        self.paused = self.closed = False
        self.on_empty: Callable[[], None] = lambda: None
        self.while_paused: Callable[[], None] = lambda: None
        self.on_revoke: Any = None
        self.commit_error: KafkaException | None = None

    def subscribe(self, topics: list[str], on_revoke: Any = None, on_lost: Any = None) -> None:
        assert topics == [self.topic] and on_revoke == on_lost
        self.on_revoke = on_revoke

    def consume(self, count: int, timeout: float) -> list[Any]:
        if self.paused:
            self.while_paused()
            return []
        taken, self.messages = self.messages[:count], self.messages[count:]
        if not taken and timeout:
            self.on_empty()
        return taken

    def poll(self, timeout: float) -> Any:
        return next(iter(self.consume(1, timeout)), None)

    def assignment(self) -> list[TopicPartition]:
        return []

    def pause(self, places: list[TopicPartition]) -> None:
        self.paused = True

    def resume(self, places: list[TopicPartition]) -> None:
        self.paused = False

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> None:
        assert not asynchronous
        if self.commit_error:
            raise self.commit_error
        self.committed |= {place.partition: place.offset for place in offsets}

    def close(self) -> None:
        self.closed = True


# Modules that import the replaced names when a test runs would keep those of the test.
IMPORTED = (rejected, feedback, definitions, feed)
FOLDERS = ("intake", "liveprofile", "models", "offline", "services", "udfs")


def replace_everywhere(
    monkeypatch: pytest.MonkeyPatch, replaced: dict[Callable[..., Any], Callable[..., Any]]
) -> None:
    """Replaces functions in every module of the product that has imported them."""
    for original, other in replaced.items():
        for module, attribute in _importers(original, len(sys.modules)):
            monkeypatch.setattr(module, attribute, other)


@functools.cache
def _importers(original: Callable[..., Any], _modules: int) -> list[tuple[Any, str]]:
    """Modules of the product that have a function or class, and the name that it has there."""
    return [
        (module, attribute)
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in FOLDERS
        for attribute, value in list(vars(module).items())
        if value is original
    ]


class MemoryKafka:
    """Topics of one partition. `records`: of each topic. Writers fence those opened before."""

    def __init__(self) -> None:
        self.records: dict[str, list[Record]] = defaultdict(list)
        self._writers = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Replaces the functions that reach Kafka."""
        replaced = {
            records.send_all: self.send_all,
            records.read_topic: self.read_topic,
            records.exclusive_writer: self.exclusive_writer,
            offsets.partition_ranges: self.partition_ranges,
            topics.create_topics: lambda settings: [],
            tail.TopicTail: self.tail,
        }
        replace_everywhere(monkeypatch, replaced)

    def send_all(
        self, settings: Any, topic: str, sent: Iterable[tuple[bytes, bytes | None, dict[str, str]]]
    ) -> int:
        log, before = self.records[topic], len(self.records[topic])
        for key, value, headers in sent:
            encoded = {name: text.encode() for name, text in headers.items()}
            log.append(Record(topic, 0, len(log), now_ms(), key, value, encoded))
        return len(log) - before

    def read_topic(
        self, settings: Any, topic: str, ranges: dict[int, PartitionRange] | None = None
    ) -> Iterator[Record]:
        span = (ranges or self.partition_ranges(settings, topic)).get(0, PartitionRange(0, 0))
        yield from self.records[topic][span.first : span.end]

    def partition_ranges(self, settings: Any, topic: str) -> dict[int, PartitionRange]:
        return {0: PartitionRange(0, len(self.records[topic]))}

    @contextmanager
    def exclusive_writer(self, settings: Any, topic: str) -> Iterator[Any]:
        self._writers += 1
        own = self._writers

        def send(sent: Any) -> None:
            if own != self._writers:
                raise WriterFencedError("another writer was opened")
            self.send_all(settings, topic, sent)

        yield send

    def tail(self, settings: Any, topic: str, group: str, **_: Any) -> FakeTopic:
        whole = {settings.topics.consents, settings.topics.erasures, settings.topics.merges}
        return FakeTopic(*[WHOLE] * (topic in whole), *self.records[topic])


# What topics of consents and erasures have.
WHOLE = Record("topic", 0, 0, 0, WHOLE_KEY, b"{}", {})


class FakeTopic:
    """A TopicTail: `records` exist when it is opened, `put` adds more later."""

    def __init__(self, *records: Record, pause_s: float = 0.0):
        self._queue: queue.Queue[Record | Exception] = queue.Queue()
        self._first, self._pause_s = list(records), pause_s
        self.caught_up = False
        self.closed = False

    def put(self, *records: Record | Exception) -> None:
        """Adds records; `poll` raises those that are exceptions."""
        for record in records:
            self._queue.put(record)

    def poll(self, timeout_s: float) -> list[Record]:
        if not self.caught_up:  # one record per poll; the poll after the last one catches up
            time.sleep(self._pause_s)
            self.caught_up = not self._first
            return [self._first.pop(0)] if self._first else []
        try:
            record = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return []
        if isinstance(record, Exception):
            raise record
        return [record]

    def close(self) -> None:
        self.closed = True

    def read_on(self) -> list[Record]:
        found, self._first, self.caught_up = self._first, [], True
        return found
