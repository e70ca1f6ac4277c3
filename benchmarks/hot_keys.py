"""Hot key benchmark: the scoring pipeline while one shop or one user has half of the events.

All cases run in one job, in turn: first each case's throughput on a backlog, then the latency of
events without the hot key at a steady rate.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
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
from liveprofile.flink import java
from liveprofile.resources import product_path
from liveprofile.settings import Settings
from stack.local import Stack

Case = Literal["even", "hot_shop", "hot_user"]
CASES: tuple[Case, ...] = ("even", "hot_shop", "hot_user")
USERS, SHOPS, PLACES = 5_000, 200, 100
HOT_SHARE = 0.5
FLAGGED_EVERY = 5  # of the events without the hot key; the benchmark measures their latency
RUN_TIMEOUT_S = 300.0
PACED_WARM_UP_S = 10.0
TASKS = 4
TASK_THREAD = re.compile(
    r'^"(?P<task>(?:Source: |OverAgg)[^"]+\(\d+/\d+\))#.* cpu=(?P<ms>[\d.]+)ms', re.M
)


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


def task_cpu_s(stack: Stack) -> dict[str, float]:
    """CPU seconds that each task has used in the TaskManager until now: name -> seconds."""
    command = [str(java.home() / "bin" / "jcmd"), str(stack.taskmanager.pid), "Thread.print"]
    return read_task_cpu_s(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
    )


def read_task_cpu_s(dump: str) -> dict[str, float]:
    """Reads the sources and OVER steps, with what is chained to them, from a thread dump."""
    return {match["task"]: float(match["ms"]) / 1000 for match in TASK_THREAD.finditer(dump)}


def busiest_tasks(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """The CPU seconds of the TASKS tasks that used most of them between two calls."""
    used = {name: round(cpu_s - before.get(name, 0.0), 2) for name, cpu_s in after.items()}
    return dict(sorted(used.items(), key=lambda item: -item[1])[:TASKS])


def backlog(job: RunningJob, case: Case, name: str, events: int, seed: int) -> dict[str, Any]:
    """Measures the job on events that become visible all at once, until the last one is stored."""
    sender = EventSender(job.settings, transaction=True)
    for message in purchases(case, name, events, seed):
        sender.send(message)
    sender.flush()
    earlier = job.journal.update()
    before = task_cpu_s(job.stack)
    with Meter(job.stack) as meter:
        start_s = time.time()
        sender.commit()
        job.wait_for_rows(earlier + events, RUN_TIMEOUT_S)
    tasks = busiest_tasks(before, task_cpu_s(job.stack))
    job.check()
    seconds = max(entry.at_s for entry in job.journal.entries) - start_s
    cpu_s = sum(used.cpu_s for process, used in meter.usage.items() if process != "benchmark")
    result = {
        "case": case,
        "events": events,
        "seconds": round(seconds, 2),
        "events_per_s": round(events / seconds),
        "cpu_us_per_event": round(cpu_s / events * 1e6),
        "task_cpu_s": tasks,
        # The rate at which the busiest task would need a whole core.
        "task_limit_per_s": round(events / max(tasks.values())),
        **meter.report(),
    }
    runs.log_progress(f"{name}: {result['events_per_s']} events/s, tasks {tasks}")
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
    }
    runs.log_progress(f"{name}: {result['latency_ms']} of {len(measured)} alerts")
    return result


def _event_id(message: EventMessage) -> str:
    return orjson.loads(message.value)["event_id"]


def hot_keys(
    stack: Stack, variant: str, events: int, repetitions: int, events_per_s: float, seconds: float
) -> dict[str, Any]:
    """Measures each case `repetitions` times on `events` events, then at `events_per_s`.

    Returns medians, their ratios to the even load, and all runs.
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
            # Both orders, because the JVMs still compile.
            for case in CASES if repetition % 2 else CASES[::-1]:
                name = f"{case}-{repetition}"
                results.append(backlog(job, case, name, events, seed=repetition + 1))
        latencies = [paced(job, case, events_per_s, seconds) for case in CASES if seconds]
    rates, limits = (
        {case: median(run[figure] for run in results if run["case"] == case) for case in CASES}
        for figure in ("events_per_s", "task_limit_per_s")
    )
    p99_ms = {result["case"]: result["latency_ms"]["p99"] for result in latencies}
    return {
        "events_per_s": rates,
        "events_per_s_to_even": _to_even(rates),
        "task_limit_per_s": limits,
        "others_p99_ms": p99_ms,
        "others_p99_to_even": _to_even(p99_ms) if p99_ms else {},
        "runs": results,
        "paced": latencies,
    }


def _to_even(values: dict[str, float]) -> dict[str, float]:
    return {case: round(value / values["even"], 2) for case, value in values.items()}
