"""A bare loop over the topic: parse, model, write. The least that any framework can cost.

It keeps no state of users, so rows have no history and no sums, and it checks nothing: no
validation, duplicates, late events, checkpoints or committed offsets. Of each partition it holds
the events of the open window. That only works for events in order of time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import chain

from confluent_kafka import Consumer, TopicPartition

from lab.benchmarks.peers.work import (
    SOURCE_ROWS,
    Options,
    ParsedEvent,
    Row,
    UpdateProfiles,
    WindowRows,
    is_heartbeat,
    parse,
    run,
    say_ready,
)
from liveprofile.kafka.connection import client_config
from liveprofile.settings import Settings


class OpenWindows:
    """The events of the open window of each partition, by user."""

    def __init__(self, settings: Settings):
        self._rows = WindowRows(settings)
        self._start_ms: dict[int, int] = {}
        self._events: dict[int, dict[str, list[ParsedEvent]]] = {}

    def add(self, partition: int, value: bytes) -> list[Row]:
        """Adds a message; returns the rows of the window that it closes."""
        found, rows = parse(value, 0, None), []
        start_ms = found.time_ms - found.time_ms % self._rows.length_ms
        if start_ms != self._start_ms.get(partition):
            rows = list(self._close(partition))
            self._start_ms[partition], self._events[partition] = start_ms, defaultdict(list)
        if not is_heartbeat(found.event):
            self._events[partition][found.event["user_id"]].append(found)
        return rows

    def _close(self, partition: int) -> Iterator[Row]:
        start_ms = self._start_ms.get(partition, 0)
        for user, events in self._events.get(partition, {}).items():
            yield self._rows.add_window(self._rows.new_user(), user, start_ms, events)


def floor(given: Options) -> None:
    settings = given.settings
    update, windows = UpdateProfiles(settings, given.folder), OpenWindows(settings)
    config = {"group.id": settings.kafka.group_id, "enable.auto.commit": False}
    consumer = Consumer(client_config(settings.kafka) | config)
    topic, processes = settings.topics.events, int(given.arguments[0])
    own = range(given.number, settings.topics.partitions, processes)
    consumer.assign([TopicPartition(topic, partition, 0) for partition in own])
    say_ready(given)
    while True:
        messages = consumer.consume(SOURCE_ROWS, 0.1)
        rows = (windows.add(message.partition(), message.value()) for message in messages)
        update(list(chain.from_iterable(rows)))


if __name__ == "__main__":
    run(floor)
