"""A ring of accounts on few devices, made up and sent live: what the event lane is for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import orjson
from confluent_kafka import Consumer, Producer, TopicPartition

from liveprofile.config import Settings
from liveprofile.errors import ServiceError
from liveprofile.ingest.replay import Sender, closing_time_ms
from liveprofile.kafka import offsets
from liveprofile.kafka.connection import client_config
from liveprofile.simulator import ring

USERS, DEVICES = 50, 3
EVERY_S = 0.05
QUIET_S, LONGEST_S = 3.0, 20.0  # no alert for so long: that was all; and at the latest
SEED = 7
CATCH_UP_S = 120.0


class RingAlerts(NamedTuple):
    purchases: int
    users_flagged: int
    first: dict[str, Any]  # the CloudEvent
    first_after: int  # purchases sent when it came
    first_ms: float  # since its purchase was sent


def play(settings: Settings, last_ms: int) -> RingAlerts:
    """Sends the ring's purchases on the day after `last_ms` and listens to the alerts.

    Raises ServiceError if none comes.
    """
    # So that the ring doesn't queue behind a year.
    offsets.wait_for_scoring(settings, CATCH_UP_S)
    start = datetime.fromtimestamp(last_ms / 1000, UTC).date() + timedelta(days=1)
    events = list(ring(USERS, DEVICES, seed=SEED, hours=12.0, start=start).records())
    sent_s: dict[str, float] = {}
    alerts: dict[str, tuple[dict[str, Any], int, float]] = {}
    producer = Producer(client_config(settings.kafka) | {"linger.ms": 0})
    with closing(_listener(settings)) as listener:
        for event in events:
            sent_s[event["event_id"]] = time.monotonic()
            producer.produce(settings.topics.events, orjson.dumps(event), event["user_id"].encode())
            for alert in _heard(listener, EVERY_S):
                _keep(alert, sent_s, alerts)
        producer.flush()
        began_s = heard_s = time.monotonic()
        while time.monotonic() - heard_s < QUIET_S and time.monotonic() - began_s < LONGEST_S:
            for alert in _heard(listener, EVERY_S):
                _keep(alert, sent_s, alerts)
                heard_s = time.monotonic()
    _close_windows(settings, max(event["event_time"] for event in events))
    if not alerts:
        raise ServiceError(f"no alert of {len(events)} purchases on {DEVICES} devices")
    first, first_after, first_ms = next(iter(alerts.values()))
    users = {alert["subject"] for alert, _, _ in alerts.values()}
    return RingAlerts(len(events), len(users), first, first_after, first_ms)


def _listener(settings: Settings) -> Consumer:
    topic = settings.topics.alerts
    own = {"group.id": "liveprofile-demo", "enable.auto.commit": False, "fetch.wait.max.ms": 10}
    listener = Consumer(client_config(settings.kafka) | own)
    held = offsets.ranges(settings, topic)
    listener.assign([TopicPartition(topic, number, part.end) for number, part in held.items()])
    return listener


def _heard(listener: Consumer, for_s: float) -> Iterator[dict[str, Any]]:
    for record in listener.consume(100, timeout=for_s):
        if record.error() is None:
            yield orjson.loads(record.value())


def _keep(
    alert: dict[str, Any],
    sent_s: dict[str, float],
    alerts: dict[str, tuple[dict[str, Any], int, float]],
) -> None:
    event_id = alert["data"].get("event_id")
    if event_id in sent_s and alert["id"] not in alerts:
        waited_ms = (time.monotonic() - sent_s[event_id]) * 1000
        alerts[alert["id"]] = (alert, len(sent_s), waited_ms)


def _close_windows(settings: Settings, last_ms: int) -> None:
    sender = Sender(settings, settings.topics.events, lambda _: None)
    sender.heartbeats(closing_time_ms(last_ms, settings.window))
    sender.finish()
