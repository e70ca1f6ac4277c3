"""Sends the purchases of a simulated fraud ring (accounts on few devices) and reads its alerts."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import orjson
from confluent_kafka import Producer

from intake.files.replay import ReplayProducer, closing_time_ms
from intake.simulator import shared_device_ring
from liveprofile.errors import ServiceError
from liveprofile.kafka import offsets
from liveprofile.kafka.connection import client_config
from liveprofile.kafka.tail import TopicTail
from liveprofile.settings import Settings

USERS, DEVICES = 50, 3
SEND_INTERVAL_S = 0.05
QUIET_S = 3.0  # after the last purchase, reading ends when no alert has come for this long
MAX_WAIT_S = 20.0  # ... and at the latest after this time
SEED = 7
GROUP = "liveprofile-demo"
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
    sent_s: dict[str, float] = {}  # event id -> send time (monotonic)
    # id -> (alert, purchases sent so far, latency in ms)
    alerts: dict[str, tuple[dict[str, Any], int, float]] = {}
    last_alert_s = 0.0

    def read_alerts(tail: TopicTail) -> None:
        nonlocal last_alert_s
        time.sleep(SEND_INTERVAL_S)
        for record in tail.poll(0.0):
            last_alert_s, alert = time.monotonic(), orjson.loads(record.value or b"")
            if (event_id := alert["data"].get("event_id")) in sent_s and alert["id"] not in alerts:
                latency_ms = (last_alert_s - sent_s[event_id]) * 1000
                alerts[alert["id"]] = alert, len(sent_s), latency_ms

    ranges = offsets.partition_ranges(settings, settings.topics.alerts)
    now = {number: part.end for number, part in ranges.items()}
    producer = Producer(client_config(settings.kafka) | {"linger.ms": 0})
    with closing(TopicTail(settings, settings.topics.alerts, GROUP, now)) as tail:
        for event in events:
            sent_s[event["event_id"]] = time.monotonic()
            producer.produce(settings.topics.events, orjson.dumps(event), event["user_id"].encode())
            read_alerts(tail)
        producer.flush()
        began_s = last_alert_s = time.monotonic()
        while time.monotonic() < min(last_alert_s + QUIET_S, began_s + MAX_WAIT_S):
            read_alerts(tail)
    heartbeats = ReplayProducer(settings, settings.topics.events)
    last_event_ms = max(event["event_time"] for event in events)
    heartbeats.send_heartbeats(closing_time_ms(last_event_ms, settings.window))
    heartbeats.flush()
    if not alerts:
        raise ServiceError(f"no alert for {len(events)} purchases on {DEVICES} devices")
    users = {alert["subject"] for alert, _, _ in alerts.values()}
    return RingResult(len(events), len(users), *next(iter(alerts.values())))
