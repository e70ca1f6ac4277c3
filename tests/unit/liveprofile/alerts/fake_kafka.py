"""A fake Kafka consumer and helpers for the tests of the alert consumer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaException, TopicPartition

from liveprofile.alerts.consumer import Alert, AlertConsumer, RetryPolicy
from liveprofile.alerts.consumer.alert import read_alert
from tests.support.memory.kafka import message
from tests.support.paths import ROOT

SCHEMA = ROOT / "schemas/risk-alert.schema.json"
EXAMPLE = json.loads(SCHEMA.read_text("utf-8"))["examples"][0]
FAST = RetryPolicy(attempts=3, initial_wait_s=0.001, max_wait_s=0.002)
TOPIC = "risk-alerts"


def payload(number: int = 1, **data: Any) -> bytes:
    return json.dumps(EXAMPLE | {"id": f"{number:032x}", "data": EXAMPLE["data"] | data}).encode()


def an_alert(**data: Any) -> Alert:
    return read_alert(payload(**data))


class FakeKafka:
    """Serves the values of each partition, then calls `on_empty`. Records the commits."""

    def __init__(self, *partitions: list[bytes | None]):
        self.messages = [
            message(TOPIC, number, offset, value, b"u-4711")
            for number, values in enumerate(partitions)
            for offset, value in enumerate(values)
        ]
        self.committed: dict[int, int] = {}
        self.closed = False
        self.on_empty: Callable[[], None] = lambda: None
        self.commit_error: KafkaException | None = None

    def subscribe(self, topics: list[str]) -> None:
        assert topics == [TOPIC]

    def poll(self, timeout: float) -> Any:
        if self.messages:
            return self.messages.pop(0)
        self.on_empty()
        return None

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> None:
        assert not asynchronous
        if self.commit_error:
            raise self.commit_error
        self.committed |= {place.partition: place.offset for place in offsets}

    def close(self) -> None:
        self.closed = True


class MemoryHandledStore:
    """A HandledStore."""

    def __init__(self) -> None:
        self.handled: set[tuple[str, str]] = set()

    def has(self, alert_id: str, handler: str) -> bool:
        return (alert_id, handler) in self.handled

    def add(self, alert_id: str, handler: str) -> None:
        self.handled.add((alert_id, handler))


class Recorder:
    """A handler that raises each of `errors` in turn, then succeeds."""

    def __init__(self, *errors: Exception, name: str = "recorder"):
        self.name, self.errors = name, list(errors)
        self.seen: list[str] = []

    def handle(self, alert: Alert) -> None:
        self.seen.append(alert.id)
        if self.errors:
            raise self.errors.pop(0)


class Run:
    """One run of the consumer over the records of a fake Kafka."""

    def __init__(self, kafka: FakeKafka, *handlers: Any, handled: Any = None, **options: Any):
        self.kafka, self.dead = kafka, []
        self.consumer = AlertConsumer(
            kafka,
            TOPIC,
            handlers,
            handled or MemoryHandledStore(),
            lambda record, failure: self.dead.append((record.offset(), failure)),
            **{"retries": FAST, **options},
        )
        kafka.on_empty = self.consumer.stop

    def __call__(self) -> Run:
        self.counts = self.consumer.run()
        return self
