"""The input topic as `liveprofile.trends.update` reads it, in Kafka."""

from __future__ import annotations

from collections.abc import Iterator

from liveprofile.kafka import offsets
from liveprofile.kafka.records import Record, read_topic
from liveprofile.kafka.topics import PartitionRange
from liveprofile.settings import Settings


class KafkaInputTopic:
    """An InputTopic (liveprofile.trends.update)."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._topic = settings, settings.topics.events

    def ranges(self) -> dict[int, PartitionRange]:
        return offsets.partition_ranges(self._settings, self._topic)

    def committed(self) -> dict[int, int]:
        return offsets.committed_offsets(self._settings, self._topic)

    def offsets_at(self, time_ms: int) -> dict[int, int]:
        return offsets.offsets_at(self._settings, self._topic, time_ms)

    def read(self, ranges: dict[int, PartitionRange]) -> Iterator[Record]:
        return read_topic(self._settings, self._topic, ranges)
