"""A thread that reads the JSON records of a topic as they arrive."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import orjson
from confluent_kafka import Consumer

from liveprofile.alerts.cloud_events import to_rfc3339
from liveprofile.kafka.connection import client_config
from liveprofile.settings import Settings
from liveprofile.storage import connection

QUIET_S = 3.0
READ_EVERY = 10  # reading all segment changes would delay the next events


class TopicListener(threading.Thread):
    """Calls `handle` for each record, also for those that are in the topic at the start.

    `session` is a connection to Cassandra. Set `start_s` (monotonic) before start().
    """

    def __init__(self, settings: Settings, topic: str):
        super().__init__(daemon=True)
        self._consumer = Consumer(
            client_config(settings.kafka)
            | {"group.id": f"benchmark-{topic}", "auto.offset.reset": "earliest"}
            | {"enable.auto.commit": False, "fetch.wait.max.ms": 10, "fetch.min.bytes": 1}
        )
        self._consumer.subscribe([topic])
        self.session = connection.connect(settings.cassandra)
        self.start_s = 0.0
        self._last_s = 0.0
        self._stopping = threading.Event()

    def handle(self, value: dict[str, Any], now_s: float) -> None:
        """now_s: when the record arrived, monotonic."""
        raise NotImplementedError

    def run(self) -> None:
        while not self._stopping.is_set():
            for record in self._consumer.consume(100, timeout=0.01):
                self._last_s = now_s = time.monotonic()
                if record.error() is None:
                    self.handle(orjson.loads(record.value()), now_s)

    def wait_until_quiet(self) -> None:
        """Waits until no record has come for a while: the last ones must not be left out."""
        while time.monotonic() - self._last_s < QUIET_S:
            time.sleep(0.1)

    def close(self) -> None:
        self._stopping.set()
        if self.is_alive():
            self.join()
        self._consumer.close()
        connection.close(self.session)


class SegmentChangeListener(TopicListener):
    """Measures from the event that closes a window until its segment changes have arrived.

    A change must be readable in Cassandra when its event arrives.

    closes_s: window end in ms -> planned send time of the event that closes it, from the start.
    """

    def __init__(self, settings: Settings, closes_s: Mapping[int, float]):
        super().__init__(settings, settings.topics.segment_changes)
        self._closes_s = {to_rfc3339(end_ms): at_s for end_ms, at_s in closes_s.items()}
        self._select = self.session.prepare(
            "SELECT number FROM user_segment WHERE user_id = ? AND segment = ?"
        )
        self.latency_ms: list[float] = []
        self.read = self.not_readable = 0

    def handle(self, value: dict[str, Any], now_s: float) -> None:
        data = value["data"]
        closed_s = self._closes_s.get(data["window_end"])
        if closed_s is None:
            return
        self.latency_ms.append((now_s - self.start_s - closed_s) * 1000)
        if len(self.latency_ms) % READ_EVERY == 0:
            key = (data["user_id"], data["segment_id"])
            row = self.session.execute(self._select, key).one()
            self.read += 1
            self.not_readable += row is None or row.number < data["number"]
