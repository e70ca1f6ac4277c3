"""A benchmark's workload, and sending it to Kafka.

For throughput runs all events are sent in one transaction before the clock starts; its commit makes
them visible at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np
from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.admin import AdminClient

from benchmarks.load import events
from liveprofile.errors import ServiceError
from liveprofile.kafka.connection import client_config
from liveprofile.kafka.topics import topic_configs
from liveprofile.settings import Settings, WindowSettings

WARM_UP_SHARE = 0.5
TRANSACTION_TIMEOUT_MS = 840_000  # the broker's maximum is 900 s


@dataclass(frozen=True)
class Workload:
    """The arguments of `benchmarks.load.events.events`."""

    n: int = 400_000
    users: int = 20_000
    zipf: float = 1.3
    hours: float = 6
    seed: int = 1
    start_ms: int = events.START_MS

    @classmethod
    def of(cls, n: int, users: int) -> Workload:
        """The default number of events per hour, so `n` does not change profiles per window."""
        return cls(n, users, hours=cls.hours * n / cls.n)

    def messages(self) -> Iterator[events.EventMessage]:
        return events.events(*self._event_arguments)

    def times_and_users(self) -> tuple[np.ndarray, np.ndarray]:
        """(n,) ascending times in ms and (n,) user numbers of `messages`."""
        _, time_ms, user = events.times_and_users(*self._event_arguments)
        return time_ms, user

    def profiles(self, window: WindowSettings, until_ms: int | None = None) -> int:
        """The number of profiles of these events, as in `benchmarks.load.events.user_windows`."""
        return events.user_windows(*self._event_arguments, window, until_ms)

    @property
    def end_ms(self) -> int:
        return self.start_ms + int(self.hours * events.HOUR_MS)

    def speed_up(self, events_per_s: float) -> float:
        """Event time divided by wall-clock time at this rate."""
        return events_per_s * self.hours * 3_600 / self.n

    def warm_up(self) -> Workload:
        """The events before this workload: they load the model and trigger JIT compilation."""
        hours = self.hours * WARM_UP_SHARE
        return replace(
            self,
            n=int(self.n * WARM_UP_SHARE),
            hours=hours,
            seed=self.seed + 1,
            start_ms=self.start_ms - int(hours * events.HOUR_MS),
        )

    @property
    def _event_arguments(self) -> tuple[int, int, float, float, int, int]:
        return self.n, self.users, self.zipf, self.hours, self.seed, self.start_ms


def partition_of(user_id: bytes, partitions: int) -> int:
    return crc32(user_id) % partitions


class EventSender:
    """Sends messages to the input topic, partitioned by key.

    transaction: consumers see no message before `commit`. Raises ServiceError.
    """

    def __init__(self, settings: Settings, *, transaction: bool = False, linger_ms: int = 20):
        self._topic, self._partitions = settings.topics.events, settings.topics.partitions
        self._out_of_orderness_ms = settings.window.out_of_orderness_ms
        # Idempotent: a retried batch after later ones would be out of order, and its events late.
        config = {"linger.ms": linger_ms, "compression.type": "lz4", "enable.idempotence": True}
        if transaction:
            config |= {
                "transactional.id": f"benchmark-{self._topic}",
                "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
            }
        self._producer = Producer(client_config(settings.kafka) | config)
        self._errors: list[KafkaError] = []
        if transaction:
            self._producer.init_transactions()
            self._producer.begin_transaction()

    def send(self, message: events.EventMessage) -> None:
        self._produce(partition_of(message.key, self._partitions), message.key, message.value)

    def send_all(self, workload: Workload, until_ms: int) -> None:
        """Sends the workload and, to each partition, a heartbeat that moves the watermark to
        `until_ms`. Returns when Kafka has acknowledged everything. Raises ServiceError.
        """
        for message in workload.messages():
            self.send(message)
        self.send_heartbeats(until_ms)
        self.flush()

    def send_heartbeats(self, until_ms: int) -> None:
        """Sends each partition a heartbeat that moves the watermark to `until_ms`."""
        beat = f'{{"event_type":"heartbeat","event_time":{until_ms + self._out_of_orderness_ms}}}'
        for partition in range(self._partitions):
            self._produce(partition, None, beat.encode())

    def flush(self) -> None:
        self._producer.flush()
        if self._errors:
            raise ServiceError(f"Kafka rejected {len(self._errors)} events: {self._errors[0]}")

    def commit(self) -> None:
        self._producer.commit_transaction()

    def _produce(self, partition: int, key: bytes | None, value: bytes) -> None:
        while True:
            try:
                self._producer.produce(
                    self._topic, value, key, partition=partition, on_delivery=self._on_delivery
                )
                return
            except BufferError:  # the producer's queue is full
                self._producer.poll(0.05)

    def poll(self) -> None:
        self._producer.poll(0)

    def _on_delivery(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._errors.append(error)


def send_warm_up(settings: Settings, workload: Workload) -> None:
    EventSender(settings).send_all(workload.warm_up(), workload.start_ms)


def send_hidden(settings: Settings, workload: Workload) -> Callable[[], None]:
    """Sends the measured events and the heartbeats that close their windows in a transaction.

    Returns the function that commits it, which makes the events visible.
    """
    sender = EventSender(settings, transaction=True)
    sender.send_all(workload, workload.end_ms + settings.window.length_ms)
    return sender.commit


def delete_topics(settings: Settings) -> None:
    names = list(topic_configs(settings.topics))
    admin = AdminClient(client_config(settings.kafka))
    for deletion in admin.delete_topics(names, operation_timeout=15).values():
        deletion.result()
