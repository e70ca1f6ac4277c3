"""Alerts, handlers and runs for the tests of the alert consumer."""

import json
from typing import Any, Self

from services.alerts.consumer import Alert, AlertConsumer, RetryPolicy
from services.alerts.consumer.alert import read_alert
from tests.support.memory.kafka import FakeConsumer
from tests.support.paths import ROOT

SCHEMA = ROOT / "schemas/risk-alert.schema.json"
EXAMPLE = json.loads(SCHEMA.read_text("utf-8"))["examples"][0]
FAST = RetryPolicy(attempts=3, initial_wait_s=0.001, max_wait_s=0.002)
TOPIC = "risk-alerts"


def payload(number: int = 1, **data: Any) -> bytes:
    return json.dumps(EXAMPLE | {"id": f"{number:032x}", "data": EXAMPLE["data"] | data}).encode()


def an_alert(**data: Any) -> Alert:
    return read_alert(payload(**data))


def kafka_of(*partitions: list[bytes | None]) -> FakeConsumer:
    return FakeConsumer(TOPIC, *partitions, key=b"u-4711")


class MemoryHandledStore:
    """A HandledStore."""

    def __init__(self) -> None:
        self.handled: set[tuple[str, str]] = set()
        self.erased: set[str] = set()  # alerts

    def has(self, alert_id: str, handler: str) -> bool:
        return (alert_id, handler) in self.handled

    def add(self, alert_id: str, handler: str) -> None:
        self.handled.add((alert_id, handler))

    def is_erased(self, alert: Alert) -> bool:
        return alert.id in self.erased


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

    def __init__(self, kafka: FakeConsumer, *handlers: Any, **options: Any):
        self.kafka, self.dead, self.store = kafka, [], MemoryHandledStore()
        self.consumer = AlertConsumer(
            kafka,
            TOPIC,
            handlers,
            self.store,
            lambda record, failure: self.dead.append((record.offset(), failure)),
            **{"retries": FAST, **options},
        )
        kafka.on_empty = self.consumer.stop

    def __call__(self) -> Self:
        self.counts = self.consumer.run()
        return self
