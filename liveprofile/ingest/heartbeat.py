"""Sends heartbeats, which keep event time moving on quiet partitions, again and again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from liveprofile.errors import ServiceError


class HeartbeatProducer(Protocol):
    """What is needed of liveprofile.ingest.replay.ReplayProducer."""

    def find_partitions(self) -> None: ...

    def send_heartbeats(self, time_ms: int) -> None: ...

    def flush(self) -> None: ...


def send_heartbeats(
    open_producer: Callable[[], HeartbeatProducer],
    every_s: float,
    count: int | None,
    on_error: Callable[[ServiceError], None],
) -> None:
    """Sends a heartbeat to every partition each `every_s` seconds; `count` times, or for ever.

    An outage of Kafka must not end the service, because after it a quiet partition would stop all
    windows. So once a heartbeat has been sent, errors go to `on_error` and a new producer sends the
    next one. Partitions are read each time, because a new one without a heartbeat would stop all
    windows too. Raises ServiceError if the first heartbeat fails.
    """
    producer, sent, next_s = open_producer(), 0, time.monotonic()
    while count is None or sent < count:
        time.sleep(max(0.0, next_s - time.monotonic()))
        next_s = max(next_s, time.monotonic() - every_s) + every_s
        try:
            producer = producer or open_producer()
            producer.find_partitions()
            producer.send_heartbeats(time.time_ns() // 1_000_000)
            producer.flush()
            sent += 1
        except ServiceError as error:
            if not sent:
                raise
            on_error(error)
            producer = None
