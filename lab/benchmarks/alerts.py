"""Alert latency benchmark: from an event's planned send time until a consumer has its alert.

It is open-loop, as latency.py. The flag of an alert must be readable in Cassandra when the consumer
receives the alert. The profile pipeline runs under a constant load at the same time.
"""

from __future__ import annotations

import bisect
import heapq
import json
import threading
import time
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import numpy as np
import orjson
import typer
from confluent_kafka import Consumer

from benchmarks.load.workload import ITEMS, EventMessage, EventSender, Workload
from benchmarks.support import runs
from benchmarks.support.meter import Meter
from benchmarks.support.report import USERS, report_on_stack
from lab.benchmarks.latency import quantiles, send_on_schedule, speed_up
from liveprofile.errors import ServiceError
from liveprofile.kafka.connection import client_config
from liveprofile.resources import product_path
from liveprofile.settings import Settings
from liveprofile.storage import connection
from stack.local import Stack

LAST_ALERT_TIMEOUT_S = 30.0
# Numbers of users, shops and places per scored event per second: they grow with the rate.
SCORED_USERS, SHOPS, PLACES = 50, 5, 2
SHOPS_PER_USER = 3
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


def alerts(
    rates: str = "100,1000",
    background: float = 4_700.0,
    warm_up: float = 180,
    seconds: Annotated[float, typer.Option(min=10)] = 60,
) -> None:
    """Measure the time from an event until a consumer has its alert, whose flag is then stored.

    Options:
    rates: Scored events per second, separated by commas.
    background: Events per second for the profile pipeline; half of the throughput on two cores.
    warm_up: Unmeasured seconds per rate.
    seconds: Measured seconds per rate.
    """
    workload = Workload.of(round(background * (warm_up + seconds)), USERS)

    def measure(stack: Stack) -> dict[str, Any]:
        scored_per_s = [float(rate) for rate in rates.split(",")]
        return {
            "runs": [
                measure_alerts(stack, workload, background, rate, warm_up, seconds)
                for rate in scored_per_s
            ]
        }

    report_on_stack("alerts", workload, measure)


class ScheduledEvent(NamedTuple):
    at_s: float  # planned send time, seconds from the start
    message: EventMessage
    scored: bool  # from `scored_events`


def background_events(
    workload: Workload, events_per_s: float, seconds: float
) -> Iterator[ScheduledEvent]:
    """The load of the profile pipeline. Its purchases are scored too, but RULE flags none."""
    time_ms, _ = workload.times_and_users()
    due_s = (time_ms - workload.start_ms) / 1000 / speed_up(workload, events_per_s)
    for at_s, message in zip(due_s.tolist(), workload.messages(), strict=True):
        if at_s > seconds:
            return
        yield ScheduledEvent(at_s, message, scored=False)


def scored_events(
    workload: Workload,
    events_per_s: float,
    faster: float,
    seconds: float,
    planned: dict[str, float],
) -> Iterator[ScheduledEvent]:
    """Yields purchases at a constant rate, of users with a constant place and constant habits.

    Events that look like fraud would be explained with reasons, which takes longer than scoring.
    Fills `planned` with the events that RULE flags: event id -> planned send time in seconds.
    """
    rng = np.random.default_rng(workload.seed)
    flag_every = max(1, round(events_per_s / ALERTS_PER_S))
    users, shops, places = (max(1, int(n * events_per_s)) for n in (SCORED_USERS, SHOPS, PLACES))
    for number in range(int(events_per_s * seconds)):
        at_s = number / events_per_s
        flagged = number % flag_every == 0
        # A flagged user buys once: a rule that stays true does not raise another flag.
        user_number = int(rng.integers(users))
        user = f"flagged{number}" if flagged else f"scored{user_number}"
        shop = (user_number * SHOPS_PER_USER + int(rng.integers(SHOPS_PER_USER))) % shops
        event_id = f"scored-{number:08d}"
        if flagged:
            planned[event_id] = at_s
        time_ms = workload.start_ms + int(at_s * faster * 1000)
        item = int(rng.integers(ITEMS))
        amount = FLAGGED_AMOUNT if flagged else round(float(rng.lognormal(3, 0.8)), 2)
        place = user_number % places
        message = purchase(event_id, user, time_ms, amount, item, f"shop{shop}", place)
        yield ScheduledEvent(at_s, message, scored=True)


def purchase(
    event_id: str, user: str, time_ms: int, amount: float, item: int, shop: str, place: int
) -> EventMessage:
    """A purchase. place: a number of a grid cell."""
    event = {
        "event_id": event_id,
        "user_id": user,
        "event_type": "purchase",
        "event_time": time_ms,
        "item_id": f"i{item:06d}",
        "amount": amount,
        "device_id": f"{user}-device",
        "place": {"lat": 45 + place / 100, "lon": -73.5},
        "attributes": {"shop_id": shop, "address_id": f"{user}-home"},
    }
    return EventMessage(user.encode(), json.dumps(event).encode())


class AlertListener(threading.Thread):
    """Reads the alerts and checks at once that Cassandra has the flag of each.

    start_s: monotonic; set before start().
    """

    def __init__(self, settings: Settings, planned: dict[str, float]):
        super().__init__(daemon=True)
        self._consumer = Consumer(
            client_config(settings.kafka)
            | {"group.id": "benchmark-alerts", "auto.offset.reset": "earliest"}
            | {"enable.auto.commit": False, "fetch.wait.max.ms": 10, "fetch.min.bytes": 1}
        )
        self._consumer.subscribe([settings.topics.alerts])
        self._session = connection.connect(settings.cassandra)
        self._select = self._session.prepare("SELECT flag_id FROM risk_flag WHERE user_id = ?")
        self._planned, self.start_s = planned, 0.0
        self._stopping = threading.Event()
        self.latency_ms: dict[str, float] = {}
        self.duplicates, self.flags_not_readable, self.other_alerts = 0, 0, 0

    def run(self) -> None:
        while not self._stopping.is_set():
            for record in self._consumer.consume(100, timeout=0.01):
                if record.error() is None:
                    self._handle(orjson.loads(record.value()), time.monotonic())

    def _handle(self, value: dict[str, Any], now_s: float) -> None:
        event_id = value["data"].get("event_id")  # a drift alert has none
        if event_id not in self._planned or value["data"]["rule_id"] != RULE_ID:
            self.other_alerts += 1
        elif event_id in self.latency_ms:
            self.duplicates += 1
        else:
            self.latency_ms[event_id] = (now_s - self.start_s - self._planned[event_id]) * 1000
            stored = self._session.execute(self._select, (value["subject"],))
            self.flags_not_readable += value["id"] not in {row.flag_id for row in stored}

    def wait(self) -> None:
        """Waits until all planned alerts have come. Raises ServiceError after a timeout."""
        deadline_s = time.monotonic() + LAST_ALERT_TIMEOUT_S
        while len(self.latency_ms) < len(self._planned):
            if time.monotonic() > deadline_s:
                missing = len(self._planned) - len(self.latency_ms)
                raise ServiceError(f"{missing} of {len(self._planned)} alerts are missing")
            time.sleep(0.1)

    def close(self) -> None:
        self._stopping.set()
        if self.is_alive():
            self.join()
        self._consumer.close()
        connection.close(self._session)


def measure_alerts(
    stack: Stack,
    workload: Workload,
    background_per_s: float,
    scored_per_s: float,
    warm_up_s: float,
    seconds: float,
) -> dict[str, Any]:
    """Runs both pipelines with `background_per_s` background and `scored_per_s` scored events.

    Measures `seconds`, after `warm_up_s` under the same load: until then JIT compilation uses a
    large share of the CPU of a small machine.
    """
    runs.log_progress(
        f"alerts: {scored_per_s:.0f} scored events/s, {background_per_s:.0f} background events/s"
    )
    rules = stack.root / "alerts-rules.toml"
    rules.write_text(product_path(Settings().rules).read_text() + RULE)
    faster = speed_up(workload, background_per_s)
    planned: dict[str, float] = {}
    schedule = list(
        heapq.merge(
            background_events(workload, background_per_s, warm_up_s + seconds),
            scored_events(workload, scored_per_s, faster, warm_up_s + seconds, planned),
            key=lambda event: event.at_s,
        )
    )
    name = f"alerts-{scored_per_s:.0f}"
    with runs.running_job(stack, "both-pipelines", name, workload, rules=str(rules)) as job:
        listener = AlertListener(job.settings, planned)
        try:
            listener.start_s = start_s = time.monotonic()
            listener.start()
            # Scored events are sent at once, the others in batches (linger), as a shop would.
            batching_sender = EventSender(job.settings)
            immediate_sender = EventSender(job.settings, linger_ms=0)

            def send_all(part: list[ScheduledEvent]) -> list[float]:
                return send_on_schedule(
                    [immediate_sender if event.scored else batching_sender for event in part],
                    [event.message for event in part],
                    np.array([event.at_s for event in part]),
                    start_s,
                )

            warm_up_count = bisect.bisect_right(schedule, warm_up_s, key=lambda event: event.at_s)
            send_all(schedule[:warm_up_count])
            with Meter(stack) as meter:
                sent_late_ms = send_all(schedule[warm_up_count:])
                listener.wait()
            job.check()
        finally:
            listener.close()
    measured = [
        latency_ms
        for event_id, latency_ms in listener.latency_ms.items()
        if planned[event_id] > warm_up_s
    ]
    return {
        "scored_per_s": scored_per_s,
        "background_per_s": round(background_per_s),
        "seconds": seconds,
        "warm_up_s": warm_up_s,
        "alerts": len(measured),
        "duplicates": listener.duplicates,
        "other_alerts": listener.other_alerts,  # from other rules, warm-up included
        "flags_not_readable": listener.flags_not_readable,
        "latency_ms": quantiles(measured),
        "sent_late_ms": quantiles(sent_late_ms),
        **meter.report(),
    }
