"""How long after an event is due its alert can be read, with the windows' load beside it.

Open loop, as benchmarks/latency.py: latency counts from the planned send time. An alert counts when
a consumer has it in hand; its flag must be readable in Cassandra by then.
"""

from __future__ import annotations

import bisect
import heapq
import json
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import orjson
from confluent_kafka import Consumer

from benchmarks.latency import quantiles, send
from benchmarks.load import events
from benchmarks.load.load import Load, Sender
from benchmarks.support import runs
from benchmarks.support.meter import Meter
from liveprofile.config import Settings
from liveprofile.errors import ServiceError
from liveprofile.kafka.connection import client_config
from liveprofile.resources import product_path
from liveprofile.storage import connection
from stack.local import Stack

LAST_ALERT_TIMEOUT_S = 30.0
# A shop with more to score has more of all: so many for each scored event a second.
USERS, SHOPS, PLACES = 50, 5, 2
SHOPS_OF_A_USER = 3
ALERTS_PER_S = 10
FLAGGED_AMOUNT = 5_000.0
RULE_ID = "benchmark_amount"
RULE = f"""
[[rules]]
id = "{RULE_ID}"
scope = "event"
types = ["purchase"]
when = "amount >= threshold"
value = "amount"
threshold = 1000.0
reason = "BENCHMARK"
severity = "low"
action = "notify_customer_service"
cool_down_hours = 0
message = "{{value:.2f}} spent"
"""


class Due(NamedTuple):
    at_s: float  # from the start
    message: events.Message
    scored: bool


def background(workload: Load, events_per_s: float, seconds: float) -> Iterator[Due]:
    """The windows' load; its purchases are scored, too, and raise no flag of RULE."""
    time_ms, _ = workload.times_and_users()
    due_s = (time_ms - workload.start_ms) / 1000 / workload.speed_up(events_per_s)
    for at_s, message in zip(due_s.tolist(), workload.messages(), strict=True):
        if at_s > seconds:
            return
        yield Due(at_s, message, scored=False)


def scored(
    workload: Load, events_per_s: float, speed_up: float, seconds: float, planned: dict[str, float]
) -> Iterator[Due]:
    """Purchases at a steady rate, of users who stay where they are and buy as they always do: what
    looks like fraud is explained, which takes longer than to score it. Fills `planned`: the id of
    each event to be flagged -> due.
    """
    rng = np.random.default_rng(workload.seed)
    each = max(1, round(events_per_s / ALERTS_PER_S))
    users, shops, places = (max(1, int(n * events_per_s)) for n in (USERS, SHOPS, PLACES))
    for number in range(int(events_per_s * seconds)):
        at_s = number / events_per_s
        flagged = number % each == 0
        # A user who is flagged comes once: a rule that stays true raises nothing.
        who = int(rng.integers(users))
        user = f"flagged{number}" if flagged else f"scored{who}"
        shop = (who * SHOPS_OF_A_USER + int(rng.integers(SHOPS_OF_A_USER))) % shops
        event_id = f"scored-{number:08d}"
        if flagged:
            planned[event_id] = at_s
        event = {
            "event_id": event_id,
            "user_id": user,
            "event_type": "purchase",
            "event_time": workload.start_ms + int(at_s * speed_up * 1000),
            "item_id": f"i{rng.integers(events.ITEMS):06d}",
            "amount": FLAGGED_AMOUNT if flagged else round(float(rng.lognormal(3, 0.8)), 2),
            "device_id": f"{user}-device",
            "place": {"lat": 45 + who % places / 100, "lon": -73.5},
            "attributes": {"shop_id": f"shop{shop}", "address_id": f"{user}-home"},
        }
        message = events.Message(user.encode(), json.dumps(event).encode())
        yield Due(at_s, message, scored=True)


class Listener(threading.Thread):
    """Reads the alerts as they come, and asks Cassandra for each one's flag at once."""

    def __init__(self, settings: Settings, planned: dict[str, float]):
        super().__init__(daemon=True)
        self._planned = planned
        self._consumer = Consumer(
            client_config(settings.kafka)
            | {"group.id": "benchmark-alerts", "auto.offset.reset": "earliest"}
            | {"enable.auto.commit": False, "fetch.wait.max.ms": 10, "fetch.min.bytes": 1}
        )
        self._consumer.subscribe([settings.topics.alerts])
        self._session = connection.connect(settings.cassandra)
        self._select = self._session.prepare(
            f"SELECT flag_id FROM {settings.cassandra.keyspace}.risk_flag WHERE user_id = ?"
        )
        self.start_s = 0.0  # monotonic; set before start()
        self.latency_ms: dict[str, float] = {}
        self.copies, self.unreadable, self.others = 0, 0, 0
        self._stop_it = threading.Event()

    def run(self) -> None:
        while not self._stop_it.is_set():
            for record in self._consumer.consume(100, timeout=0.01):
                now_s = time.monotonic()
                if record.error() is None:
                    self._take(orjson.loads(record.value()), now_s)

    def _take(self, alert: dict[str, Any], now_s: float) -> None:
        event_id = alert["data"].get("event_id")  # drift has none
        if event_id not in self._planned or alert["data"]["rule_id"] != RULE_ID:
            self.others += 1
            return
        if event_id in self.latency_ms:
            self.copies += 1
            return
        self.latency_ms[event_id] = (now_s - self.start_s - self._planned[event_id]) * 1000
        stored = self._session.execute(self._select, (alert["subject"],))
        self.unreadable += alert["id"] not in {row.flag_id for row in stored}

    def wait(self) -> None:
        """Raises ServiceError if alerts are missing."""
        deadline_s = time.monotonic() + LAST_ALERT_TIMEOUT_S
        while len(self.latency_ms) < len(self._planned):
            if time.monotonic() > deadline_s:
                missing = len(self._planned) - len(self.latency_ms)
                raise ServiceError(f"{missing} of {len(self._planned)} alerts did not come")
            time.sleep(0.1)

    def close(self) -> None:
        self._stop_it.set()
        self.join()
        self._consumer.close()
        connection.close(self._session)


def alerts(
    stack: Stack,
    workload: Load,
    background_per_s: float,
    scored_per_s: float,
    warm_up_s: float,
    seconds: float,
    changelog: bool,
    stagger_ms: int,
) -> dict[str, Any]:
    """Runs the job with both lanes under `background_per_s` and `scored_per_s`.

    `seconds` are measured, after `warm_up_s` under the same load: until then the JVM's compilers
    take a good part of a small machine.
    """
    runs.say(f"alerts: {scored_per_s:.0f} scored events/s beside {background_per_s:.0f} events/s")
    rules = stack.root / "alerts-rules.toml"
    rules.write_text(product_path(Settings().rules).read_text() + RULE)
    speed_up = workload.speed_up(background_per_s)
    planned: dict[str, float] = {}
    plan = heapq.merge(
        background(workload, background_per_s, warm_up_s + seconds),
        scored(workload, scored_per_s, speed_up, warm_up_s + seconds, planned),
        key=lambda due: due.at_s,
    )
    due = list(plan)
    name = f"alerts-{scored_per_s:.0f}"
    overrides = {"job": {"changelog": changelog}, "window": {"stagger_ms": stagger_ms}}
    with runs.job(stack, "lanes", name, workload, overrides, rules=str(rules)) as job:
        listener = Listener(job.settings, planned)
        try:
            listener.start_s = start_s = time.monotonic()
            listener.start()
            # As shops do: what is scored is sent at once, all else is gathered a little.
            in_bulk, at_once = Sender(job.settings), Sender(job.settings, linger_ms=0)

            def send_all(part: list[Due]) -> list[float]:
                return send(
                    [at_once if one.scored else in_bulk for one in part],
                    [one.message for one in part],
                    np.array([one.at_s for one in part]),
                    start_s,
                )

            warm = bisect.bisect_right(due, warm_up_s, key=lambda one: one.at_s)
            send_all(due[:warm])
            began_s = time.time()
            with Meter(stack) as meter:
                sent_late_ms = send_all(due[warm:])
                listener.wait()
            job.check()
        finally:
            listener.close()
        checkpoints_ms = runs.checkpoints_ms(job, began_s)
    measured = [
        latency_ms
        for event_id, latency_ms in listener.latency_ms.items()
        if planned[event_id] > warm_up_s
    ]
    return {
        "scored_per_s": scored_per_s,
        "background_per_s": round(background_per_s),
        "parallelism": job.settings.job.parallelism,
        "changelog": changelog,
        "stagger_ms": stagger_ms,
        "seconds": seconds,
        "warm_up_s": warm_up_s,
        "alerts": len(measured),
        "copies": listener.copies,
        "other_alerts": listener.others,  # of the other rules, warm-up included
        "flags_not_readable": listener.unreadable,
        "latency_ms": quantiles([measured]),
        "sent_late_ms": quantiles([sent_late_ms]),
        "checkpoints_ms": checkpoints_ms,
        **meter.report(),
    }
