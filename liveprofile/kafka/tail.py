"""Reads a topic on and on without a consumer group's assignment, and knows how far it has come."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from liveprofile.errors import ServiceError
from liveprofile.kafka.connection import client_config
from liveprofile.kafka.records import READ_TIMEOUT_S, Record, to_record
from liveprofile.kafka.topics import partitions, query_ranges
from liveprofile.settings import Settings

log = logging.getLogger(__name__)

FETCH_RECORDS = 5_000
POLL_S = 0.5


class TopicTail:
    """Follows all partitions of a topic. Used by one thread.

    starts: the first offset of a partition; others are read from their beginning. open_consumer:
    from librdkafka's configuration. partitions_check_s: how often `poll` looks for partitions that
    were added; None: never.

    positions: by partition, the offset up to which everything was returned by `poll`. Markers of
    transactions at the end of a partition count as read.

    Raises ServiceError if Kafka does not answer, NoTopicError if the topic does not exist.
    """

    def __init__(
        self,
        settings: Settings,
        topic: str,
        group_id: str,
        starts: Mapping[int, int] | None = None,
        open_consumer: Callable[[dict[str, Any]], Consumer] = Consumer,
        partitions_check_s: float | None = None,
    ):
        self._check_s, self._next_check_s = partitions_check_s, time.monotonic()
        self._kafka, self._topic, self._starts = settings.kafka, topic, dict(starts or {})
        self.positions: dict[int, int] = {}
        self._behind: set[int] = set()
        self._consumer = open_consumer(
            client_config(settings.kafka)
            | {
                "group.id": group_id,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                # The end of a partition is an event with an offset behind the last marker.
                "enable.partition.eof": True,
                "queued.max.messages.kbytes": 65_536,
            }
        )
        try:
            self.find_partitions()
            self._next_check_s += partitions_check_s or 0
        except BaseException:
            self._consumer.close()
            raise

    def find_partitions(self) -> None:
        """Follows partitions that were added to the topic. Raises ServiceError."""
        numbers = partitions(self._consumer, self._kafka, self._topic)
        added = [number for number in numbers if number not in self.positions]
        if added:
            places = [
                TopicPartition(self._topic, each, self._starts.get(each, OFFSET_BEGINNING))
                for each in added
            ]
            self._consumer.incremental_assign(places)
            self.positions |= {each: self._starts.get(each, 0) for each in added}
            self._behind.update(added)

    @property
    def caught_up(self) -> bool:
        """Whether all records that existed when a partition was found have been returned."""
        return not self._behind

    def poll(self, timeout_s: float = POLL_S) -> list[Record]:
        """New records, those of a partition in order; waits at most so long for the first one.

        Raises ServiceError.
        """
        if self._check_s is not None and time.monotonic() >= self._next_check_s:
            self._next_check_s = time.monotonic() + self._check_s
            try:
                self.find_partitions()
            except ServiceError as error:  # the partitions that are known are followed meanwhile
                log.warning("topic %s: %s; are there new partitions?", self._topic, error)
        records = []
        messages = self._consumer.consume(1, timeout=timeout_s)
        if messages:
            messages += self._consumer.consume(FETCH_RECORDS, timeout=0)
        for message in messages:
            error = message.error()
            if error is None:
                records.append(to_record(message))
                self.positions[message.partition()] = message.offset() + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                self.positions[message.partition()] = message.offset()
                self._behind.discard(message.partition())
            else:
                raise ServiceError(f"reading topic {self._topic}: {error.str()}")
        return records

    def ends(self) -> dict[int, int]:
        """The present end of each partition that is followed. Raises ServiceError."""
        ranges = query_ranges(self._consumer, self._kafka, self._topic)
        return {number: ranges[number].end for number in self.positions if number in ranges}

    def has_read(self, ends: Mapping[int, int]) -> bool:
        return all(self.positions[number] >= end for number, end in ends.items())

    def read_on(self) -> list[Record]:
        """All records up to the present end of the topic. Raises ServiceError."""
        ends, records = self.ends(), []
        deadline_s = time.monotonic() + READ_TIMEOUT_S
        while not self.has_read(ends):
            records += self.poll()
            if time.monotonic() > deadline_s:
                raise ServiceError(
                    f"reading topic {self._topic}: Kafka did not send it in {READ_TIMEOUT_S:.0f} s"
                )
        return records

    def group_metadata(self) -> Any:
        """What a transaction needs to commit offsets of the group."""
        return self._consumer.consumer_group_metadata()

    def close(self) -> None:
        self._consumer.close()
