"""A constant load of events from a thread of the test process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from tests.support.job_under_test import JobUnderTest
from tests.support.streams.seeded import Message
from tests.support.streams.shop import START_MS

TIMEOUT_S = 900.0


class Load:
    """Sends events at a constant rate in a thread."""

    def __init__(self, job: JobUnderTest, stream: Iterator[tuple[int, Message]], per_s: float):
        self._job, self._stream, self._per_s = job, stream, per_s
        self._stop, self._errors = threading.Event(), []
        self._thread = threading.Thread(target=self._send)
        self.sent, self.clock_ms, self.started_s = 0, START_MS, time.monotonic()

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert not self._errors, self._errors[0]

    def _send(self) -> None:
        producer, topic = self._job.producer(), self._job.settings.topics.events
        started_s = time.monotonic()
        for time_ms, message in self._stream:
            self.clock_ms = time_ms
            producer.produce(
                topic,
                message.value,
                message.key,
                on_delivery=lambda error, _: self._errors.append(error) if error else None,
            )
            self.sent += 1
            if self._stop.is_set():
                break
            ahead_s = started_s + self.sent / self._per_s - time.monotonic()
            producer.poll(max(0.0, ahead_s))
        if producer.flush(TIMEOUT_S):
            self._errors.append("Kafka did not accept the last records")
