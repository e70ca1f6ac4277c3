"""The heartbeat service."""

from __future__ import annotations

import time

import pytest

from liveprofile.errors import ServiceError
from liveprofile.ingest.heartbeat import send_heartbeats

EVERY_S = 0.01


class Topic:
    """Opens producers that send to `partitions`; the calls with a number in `failing` fail."""

    def __init__(self, partitions: int = 1, failing: tuple[int, ...] = ()):
        self.partitions, self.failing = partitions, failing
        self.calls = self.opened = 0
        self.sent_ms: list[list[int]] = []

    def open(self) -> Topic:
        self.opened += 1
        return self

    def find_partitions(self) -> None:
        self.found = self.partitions

    def send_heartbeats(self, time_ms: int) -> None:
        self.calls += 1
        if self.calls in self.failing:
            raise ServiceError("broker is away")
        self.sent_ms.append([time_ms] * self.found)
        self.partitions += 1

    def flush(self) -> None:
        pass


def run(topic: Topic, count: int) -> list[str]:
    errors: list[str] = []
    send_heartbeats(topic.open, EVERY_S, count, lambda error: errors.append(str(error)))
    return errors


def test_heartbeats_go_to_partitions_that_are_added_later() -> None:
    topic, started_s = Topic(partitions=2), time.monotonic()
    assert run(topic, 3) == []
    assert [len(times) for times in topic.sent_ms] == [2, 3, 4]
    assert time.monotonic() - started_s >= 2 * EVERY_S
    assert abs(topic.sent_ms[-1][0] - time.time() * 1_000) < 5_000


def test_outage_does_not_end_the_service() -> None:
    topic = Topic(failing=(2, 3))
    assert run(topic, 2) == ["broker is away"] * 2
    assert (len(topic.sent_ms), topic.opened) == (2, 3)


def test_first_heartbeat_that_fails_is_an_error() -> None:
    with pytest.raises(ServiceError, match="broker is away"):
        run(Topic(failing=(1,)), 1)
