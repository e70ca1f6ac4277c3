"""How long after a window closes its profiles can be read, under a steady load.

Open loop: when each event is due is fixed beforehand, and latency counts from there, so an event
that the benchmark itself sends late makes the figure worse, not better.
"""

from __future__ import annotations

import threading
import time
from typing import Any, NamedTuple

import numpy as np

from benchmarks.load import events
from benchmarks.load.load import Load, Sender, partition_of
from benchmarks.support import runs
from benchmarks.support.meter import Meter
from liveprofile.config import Settings, load
from liveprofile.errors import ConfigError, ServiceError
from liveprofile.storage import connection
from stack.local import Stack
from udfs.profile.batch import STAGES

POLL_S = 0.025
# Under a steady load the services compile other paths than in bulk: this long nothing is measured.
PACED_WARM_UP_S = 30.0
LAST_SAMPLE_TIMEOUT_S = 60.0


class Schedule(NamedTuple):
    """When each of n events is due, in seconds from the start, and when each window closes."""

    messages: list[events.Message]
    due_s: np.ndarray  # (n,) ascending
    closes_s: dict[int, float]  # window end in ms -> its closing event is due; only if there is one


def schedule(workload: Load, settings: Settings, events_per_s: float) -> Schedule:
    """The workload sped up to `events_per_s` on average, as uneven as it is."""
    messages = list(workload.messages())
    time_ms, _ = workload.times_and_users()
    speed_up = workload.speed_up(events_per_s)
    due_s = (time_ms - workload.start_ms) / 1000 / speed_up
    partitions = settings.topics.partitions
    partition = np.array([partition_of(message.key, partitions) for message in messages])
    window = settings.window
    closes_s = {}
    for end_ms in range(workload.start_ms + window.length_ms, workload.end_ms, window.length_ms):
        # The slowest partition holds the watermark back.
        closing = []
        for number in range(partitions):
            mine = np.flatnonzero(partition == number)
            first = np.searchsorted(time_ms[mine], end_ms - 1 + window.out_of_orderness_ms)
            closing.append(float(due_s[mine[first]]) if first < len(mine) else None)
        if None not in closing:
            closes_s[end_ms] = max(closing)
    return Schedule(messages, due_s, closes_s)


def sample(workload: Load, window_ms: int, ends_ms: list[int], count: int) -> dict[int, list[str]]:
    """`count` profiles drawn from all of these windows: window end -> user ids in no order."""
    time_ms, user = workload.times_and_users()
    pairs = np.unique(np.stack([time_ms // window_ms * window_ms + window_ms, user]), axis=1)
    pairs = pairs[:, np.isin(pairs[0], ends_ms)]
    drawn = np.random.default_rng(workload.seed).permutation(pairs.shape[1])[:count]
    found: dict[int, list[str]] = {}
    for end_ms, who in pairs[:, drawn].T.tolist():
        found.setdefault(end_ms, []).append(f"u{who:07d}")
    return found


class Watcher(threading.Thread):
    """Asks Cassandra for sampled rows from when their window closes until they are there.

    It asks for one row after the other, and only in the oldest window that still lacks some, so
    that watching costs little of what it watches. A row counts from when it is seen, never from
    when it may have been there.
    """

    def __init__(self, settings: Settings, plan: Schedule, wanted: dict[int, list[str]]):
        super().__init__(daemon=True)
        self._session = connection.connect(settings.cassandra)
        self._select = self._session.prepare(
            "SELECT window_end FROM profile_delta WHERE user_id = ? AND window_end = ?"
        )
        self._plan = plan
        self._missing = {end_ms: list(users) for end_ms, users in sorted(wanted.items())}
        self.latency_ms: dict[int, list[float]] = {end_ms: [] for end_ms in wanted}
        self.queries = 0
        self.start_s = 0.0  # monotonic; set before start()
        self.given_up = threading.Event()

    @property
    def missing(self) -> int:
        return sum(map(len, self._missing.values()))

    def run(self) -> None:
        while self._missing and not self.given_up.is_set():
            began_s = time.monotonic()
            end_ms = next(iter(self._missing))
            closed_s = self.start_s + self._plan.closes_s[end_ms]
            if closed_s <= began_s:
                self._look(end_ms, closed_s)
            time.sleep(max(0.0, POLL_S - (time.monotonic() - began_s)))

    def _look(self, end_ms: int, closed_s: float) -> None:
        waiting = self._missing[end_ms]
        while waiting and self._is_there(waiting[-1], end_ms):
            self.latency_ms[end_ms].append((time.monotonic() - closed_s) * 1000)
            waiting.pop()
        if not waiting:
            del self._missing[end_ms]

    def _is_there(self, user_id: str, end_ms: int) -> bool:
        self.queries += 1
        return self._session.execute(self._select, (user_id, end_ms)).one() is not None

    def close(self) -> None:
        self.given_up.set()
        self.join()
        connection.close(self._session)


def latency(stack: Stack, workload: Load, events_per_s: float, samples: int) -> dict[str, Any]:
    """Runs the whole job under the workload at `events_per_s` and watches `samples` profiles."""
    runs.say(f"latency: preparing {events_per_s:.0f} events/s")
    # The windows and partitions that the job will have; its topics are of no matter here.
    planned = load(**stack.settings())
    plan = schedule(workload, planned, events_per_s)
    ends_ms = [end for end, due_s in plan.closes_s.items() if due_s > PACED_WARM_UP_S]
    if not ends_ms:
        raise ConfigError(
            f"{workload.n} events at {events_per_s:.0f} a second are over before"
            f" {PACED_WARM_UP_S:.0f} s of warm-up: give more --events"
        )
    wanted = sample(workload, planned.window.length_ms, ends_ms, samples)
    with runs.job(stack, "whole", "latency", workload) as job:
        settings = job.settings
        sender = Sender(settings)
        watcher = Watcher(settings, plan, wanted)
        try:
            watcher.start_s = start_s = time.monotonic()
            began_s = time.time()
            watcher.start()
            with Meter(stack) as meter:
                senders = [sender] * len(plan.messages)
                sent_late_ms = send(senders, plan.messages, plan.due_s, start_s)
                watcher.join(LAST_SAMPLE_TIMEOUT_S)
            job.check()
            if watcher.missing:
                raise ServiceError(
                    f"{watcher.missing} of {samples} sampled profiles are not in Cassandra"
                    f" {LAST_SAMPLE_TIMEOUT_S:.0f} s after the last event"
                )
        finally:
            watcher.close()
        checkpoints_ms = runs.checkpoints_ms(job, began_s)
        job.journal.update()
        batches = [entry.stage_ms for entry in job.journal.entries if entry.at_s > began_s]
        stage_quantiles = {
            stage: quantiles([[batch[stage] for batch in batches]]) for stage in STAGES
        }
    by_window = [values for _, values in sorted(watcher.latency_ms.items())]
    half = len(by_window) // 2
    result = {
        "events_per_s": round(events_per_s),
        "speed_up": round(workload.speed_up(events_per_s), 1),
        "window_ms": settings.window.length_ms,
        "window_wall_ms": round(settings.window.length_ms / workload.speed_up(events_per_s)),
        "out_of_orderness_ms": settings.window.out_of_orderness_ms,
        "bundle_rows": settings.job.bundle_rows,
        "bundle_time_ms": settings.job.bundle_time_ms,
        "poll_ms": POLL_S * 1000,
        "paced_warm_up_s": PACED_WARM_UP_S,
        "samples": sum(map(len, by_window)),
        "windows": len(by_window),
        "queries": watcher.queries,
        "latency_ms": quantiles(by_window),
        "latency_ms_first_half": quantiles(by_window[:half]),
        "latency_ms_second_half": quantiles(by_window[half:]),
        "sent_late_ms": quantiles([sent_late_ms]),
        "checkpoints_ms": checkpoints_ms,
        "batch_stage_ms": stage_quantiles,
        **meter.report(),
    }
    runs.say(f"latency: {result['latency_ms']} of {result['samples']} profiles")
    return result


def send(
    senders: list[Sender], messages: list[events.Message], due_s: np.ndarray, start_s: float
) -> list[float]:
    """Sends every event by its sender when it is due, in seconds from `start_s` (monotonic);
    returns by how many ms the oldest of each go was late."""
    late_ms = []
    used = set(senders)
    sent, count = 0, len(messages)
    while sent < count:
        now_s = time.monotonic() - start_s
        due = int(np.searchsorted(due_s, now_s, side="right"))
        if due > sent:
            late_ms.append((now_s - float(due_s[sent])) * 1000)
            for sender, message in zip(senders[sent:due], messages[sent:due], strict=True):
                sender.send(message)
            sent = due
        for sender in used:
            sender.poll()
        time.sleep(0.002)
    for sender in used:
        sender.flush()
    return late_ms


def quantiles(groups: list[list[float]]) -> dict[str, float]:
    """Of all groups together."""
    values = np.concatenate([np.array(group) for group in groups])
    p50, p99 = np.quantile(values, [0.5, 0.99]).tolist()
    return {"p50": round(p50, 1), "p99": round(p99, 1), "max": round(float(values.max()), 1)}
