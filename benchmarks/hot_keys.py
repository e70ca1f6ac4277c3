"""Hot key benchmark: the scoring pipeline while one shop or one user has half of the events.

All cases run in one job, in turn: first each case's throughput on a backlog, then the latency of
events without the hot key at a fixed rate. Other load of the machine affects all cases.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any, Literal

import numpy as np
import orjson

from benchmarks.alerts import FLAGGED_AMOUNT, RULE, AlertListener
from benchmarks.latency import quantiles, send_on_schedule
from benchmarks.load.events import ITEMS, EventMessage
from benchmarks.load.purchases import purchase
from benchmarks.load.workload import EventSender
from benchmarks.support import runs
from benchmarks.support.meter import Meter
from benchmarks.support.runs import RunningJob
from liveprofile.config import Settings
from liveprofile.flink import rest
from liveprofile.resources import product_path
from stack.local import Stack

Case = Literal["even", "hot_shop", "hot_user"]
CASES: tuple[Case, ...] = ("even", "hot_shop", "hot_user")
USERS, SHOPS, PLACES = 5_000, 200, 100
HOT_SHARE = 0.5
FLAGGED_EVERY = 5  # of the events without the hot key; the benchmark measures their latency
RUN_TIMEOUT_S = 300.0
PACED_WARM_UP_S = 10.0
BUSY_SAMPLE_S = 2.0
BUSIEST = 4
BUSY_METRIC = "busyTimeMsPerSecond"


def purchases(
    case: Case, prefix: str, count: int, seed: int, flagged: bool = False
) -> Iterator[EventMessage]:
    """Yields purchases of now with unique ids. Half of them, at random, have the case's hot key.

    prefix: of the event ids. flagged: RULE flags some events without the hot key; their ids end
    with "!".
    """
    rng = np.random.default_rng(seed)
    others = 0
    for number in range(count):
        is_hot = bool(rng.random() < HOT_SHARE)
        others += not is_hot
        is_flagged = flagged and not is_hot and others % FLAGGED_EVERY == 0
        event_id = f"{prefix}-{number:07d}" + ("!" if is_flagged else "")
        user_number, shop = int(rng.integers(USERS)), int(rng.integers(SHOPS))
        # A flagged user buys once: a rule that stays true does not raise another flag.
        user = f"flagged-{event_id}" if is_flagged else f"user{user_number}"
        yield purchase(
            event_id,
            "guest" if is_hot and case == "hot_user" else user,
            int(time.time() * 1000),
            FLAGGED_AMOUNT if is_flagged else round(float(rng.lognormal(3, 0.8)), 2),
            int(rng.integers(ITEMS)),
            "hot" if is_hot and case == "hot_shop" else f"shop{shop}",
            user_number % PLACES,
            buyer=user,
        )


class BusySampler(threading.Thread):
    """Samples how busy the busiest subtask of each vertex is."""

    def __init__(self, job: RunningJob):
        super().__init__(daemon=True)
        self._url, self._job_id = job.stack.rest_url, job.job_id
        self._samples: dict[str, list[float]] = {}
        self._stopping = threading.Event()

    def run(self) -> None:
        vertices = rest.request(self._url, f"/jobs/{self._job_id}")["vertices"]
        while not self._stopping.wait(BUSY_SAMPLE_S):
            for vertex in vertices:
                metrics = rest.vertex_metrics(
                    self._url, self._job_id, vertex["id"], BUSY_METRIC.__eq__, "max"
                )
                for busy_ms in metrics.values():
                    self._samples.setdefault(vertex["name"][:90], []).append(busy_ms / 1000)

    def stop(self) -> dict[str, float]:
        """Returns the mean busy share of the busiest subtask, for the busiest vertices."""
        self._stopping.set()
        self.join()
        shares = {name: round(float(np.mean(busy)), 2) for name, busy in self._samples.items()}
        return dict(sorted(shares.items(), key=lambda item: -item[1])[:BUSIEST])


@contextmanager
def busy_shares(job: RunningJob) -> Iterator[dict[str, float]]:
    """Yields a dict that holds the result of BusySampler after the block."""
    shares: dict[str, float] = {}
    sampler = BusySampler(job)
    sampler.start()
    try:
        yield shares
    finally:
        shares.update(sampler.stop())


def backlog(job: RunningJob, case: Case, name: str, events: int, seed: int) -> dict[str, Any]:
    """Measures the job on events that become visible all at once, until the last one is stored."""
    sender = EventSender(job.settings, transaction=True)
    for message in purchases(case, name, events, seed):
        sender.send(message)
    sender.flush()
    earlier = job.journal.update()
    with Meter(job.stack) as meter, busy_shares(job) as busy:
        start_s = time.time()
        sender.commit()
        job.wait_for_rows(earlier + events, RUN_TIMEOUT_S)
    job.check()
    seconds = max(entry.at_s for entry in job.journal.entries) - start_s
    cpu_s = sum(used.cpu_s for process, used in meter.usage.items() if process != "benchmark")
    result = {
        "case": case,
        "events": events,
        "seconds": round(seconds, 2),
        "events_per_s": round(events / seconds),
        "cpu_us_per_event": round(cpu_s / events * 1e6),
        "busiest_subtasks": busy,
        **meter.report(),
    }
    runs.log_progress(f"{name}: {result['events_per_s']} events/s, busy {busy}")
    return result


def paced(job: RunningJob, case: Case, events_per_s: float, seconds: float) -> dict[str, Any]:
    """Measures the latency of the alerts of events without the hot key, at a steady rate."""
    duration_s = PACED_WARM_UP_S + seconds
    name = f"paced-{case}"
    messages = list(purchases(case, name, int(events_per_s * duration_s), seed=0, flagged=True))
    due_s = np.arange(len(messages)) / events_per_s
    planned = {
        event_id: float(at_s)
        for message, at_s in zip(messages, due_s, strict=True)
        if (event_id := _event_id(message)).endswith("!")
    }
    listener = AlertListener(job.settings, planned)
    try:
        listener.start_s = start_s = time.monotonic()
        listener.start()
        sender = EventSender(job.settings, linger_ms=0)
        with busy_shares(job) as busy:
            sent_late_ms = send_on_schedule([sender] * len(messages), messages, due_s, start_s)
        listener.wait()
        job.check()
    finally:
        listener.close()
    measured = [
        latency_ms
        for event_id, latency_ms in listener.latency_ms.items()
        if planned[event_id] > PACED_WARM_UP_S
    ]
    result = {
        "case": case,
        "events_per_s": events_per_s,
        "alerts": len(measured),
        "flags_not_readable": listener.flags_not_readable,
        "latency_ms": quantiles([measured]),
        "sent_late_ms": quantiles([sent_late_ms]),
        "busiest_subtasks": busy,
    }
    runs.log_progress(f"{name}: {result['latency_ms']} of {len(measured)} alerts, busy {busy}")
    return result


def _event_id(message: EventMessage) -> str:
    return orjson.loads(message.value)["event_id"]


def hot_keys(
    stack: Stack, variant: str, events: int, repetitions: int, events_per_s: float, seconds: float
) -> dict[str, Any]:
    """Measures each case `repetitions` times on `events` events, then at `events_per_s`.

    variant: scoring or scoring-bare, which sends no alerts and so has no latency (`seconds` 0).
    """
    rules = stack.root / "hot-keys-rules.toml"
    rules.write_text(product_path(Settings().rules).read_text() + RULE)
    results: list[dict[str, Any]] = []
    with runs.running_job(stack, variant, "hot-keys", None, rules=str(rules)) as job:
        # Compiles the code, and fills the lists of shops and places.
        for case in CASES:
            backlog(job, case, f"warm-up-{case}", events // 3, seed=1)
        for repetition in range(1, repetitions + 1):
            for case in CASES:
                name = f"{case}-{repetition}"
                results.append(backlog(job, case, name, events, seed=repetition + 1))
        latencies = [paced(job, case, events_per_s, seconds) for case in CASES if seconds]
    rates = {
        case: median(run["events_per_s"] for run in results if run["case"] == case)
        for case in CASES
    }
    p99_ms = {result["case"]: result["latency_ms"]["p99"] for result in latencies}
    return {
        "events_per_s": rates,
        "events_per_s_to_even": _to_even(rates),
        "others_p99_ms": p99_ms,
        "others_p99_to_even": _to_even(p99_ms),
        "runs": results,
        "paced": latencies,
    }


def _to_even(values: dict[str, float]) -> dict[str, float]:
    return {case: round(value / values["even"], 2) for case, value in values.items()}
