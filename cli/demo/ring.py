"""Sends the purchases of a simulated fraud ring (accounts on few devices) and reads its alerts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import orjson
from confluent_kafka import Consumer, Producer, TopicPartition

from liveprofile.errors import ServiceError
from liveprofile.ingest.replay import ReplayProducer, closing_time_ms
from liveprofile.kafka import offsets
from liveprofile.kafka.connection import client_config
from liveprofile.settings import Settings
from liveprofile.simulator import shared_device_ring

USERS, DEVICES = 50, 3
SEND_INTERVAL_S = 0.05
QUIET_S = 3.0  # after the last purchase, reading ends when no alert has come for this long
MAX_WAIT_S = 20.0  # ... and at the latest after this time
SEED = 7
CATCH_UP_TIMEOUT_S = 120.0


class RingResult(NamedTuple):
    purchases: int
    users_flagged: int
    first_alert: dict[str, Any]  # a CloudEvent
    first_alert_purchases: int  # purchases sent before the first alert came
    first_alert_ms: float  # from sending the flagged purchase to its alert


def send_ring(settings: Settings, last_ms: int) -> RingResult:
    """Sends the ring's purchases, dated on the day after `last_ms`, and reads their alerts.

    Raises ServiceError if no alert comes.
    """
    # The scoring pipeline must first score the replayed year, or the ring would wait behind it.
    offsets.wait_for_scoring(settings, CATCH_UP_TIMEOUT_S)
    start = datetime.fromtimestamp(last_ms / 1000, UTC).date() + timedelta(days=1)
    events = list(shared_device_ring(USERS, DEVICES, seed=SEED, hours=12.0, start=start).records())
    sent_s: dict[str, float] = {}
    alerts: dict[str, tuple[dict[str, Any], int, float]] = {}
    producer = Producer(client_config(settings.kafka) | {"linger.ms": 0})
    with closing(_alert_consumer(settings)) as consumer:
        for event in events:
            sent_s[event["event_id"]] = time.monotonic()
            producer.produce(settings.topics.events, orjson.dumps(event), event["user_id"].encode())
            for alert in _read_alerts(consumer, SEND_INTERVAL_S):
                _record_alert(alert, sent_s, alerts)
        producer.flush()
        began_s = last_alert_s = time.monotonic()
        while time.monotonic() - last_alert_s < QUIET_S and time.monotonic() - began_s < MAX_WAIT_S:
            for alert in _read_alerts(consumer, SEND_INTERVAL_S):
                _record_alert(alert, sent_s, alerts)
                last_alert_s = time.monotonic()
    _close_windows(settings, max(event["event_time"] for event in events))
    if not alerts:
        raise ServiceError(f"no alert for {len(events)} purchases on {DEVICES} devices")
    first_alert, purchases_sent, first_alert_ms = next(iter(alerts.values()))
    users = {alert["subject"] for alert, _, _ in alerts.values()}
    return RingResult(len(events), len(users), first_alert, purchases_sent, first_alert_ms)


def _alert_consumer(settings: Settings) -> Consumer:
    """A consumer of the alerts from now on."""
    topic = settings.topics.alerts
    config = {"group.id": "liveprofile-demo", "enable.auto.commit": False, "fetch.wait.max.ms": 10}
    consumer = Consumer(client_config(settings.kafka) | config)
    ranges = offsets.partition_ranges(settings, topic)
    consumer.assign([TopicPartition(topic, number, part.end) for number, part in ranges.items()])
    return consumer


def _read_alerts(consumer: Consumer, timeout_s: float) -> Iterator[dict[str, Any]]:
    for record in consumer.consume(100, timeout=timeout_s):
        if record.error() is None:
            yield orjson.loads(record.value())


def _record_alert(
    alert: dict[str, Any],
    sent_s: dict[str, float],
    alerts: dict[str, tuple[dict[str, Any], int, float]],
) -> None:
    """Adds an alert of the ring to `alerts`: id -> (alert, purchases sent so far, latency in ms).

    sent_s: event id -> send time (monotonic).
    """
    event_id = alert["data"].get("event_id")
    if event_id in sent_s and alert["id"] not in alerts:
        latency_ms = (time.monotonic() - sent_s[event_id]) * 1000
        alerts[alert["id"]] = (alert, len(sent_s), latency_ms)


def _close_windows(settings: Settings, last_ms: int) -> None:
    producer = ReplayProducer(settings, settings.topics.events)
    producer.send_heartbeats(closing_time_ms(last_ms, settings.window))
    producer.flush()
