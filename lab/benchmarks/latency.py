"""Profile latency benchmark: from a window's closing event until its profiles can be read.

It is open-loop: send times are planned in advance and latency counts from the planned time, so an
event that the benchmark sends late increases the latency.
"""

import threading
import time
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from benchmarks.load.workload import EventMessage, EventSender, Workload, user_id_of
from benchmarks.support import runs
from benchmarks.support.meter import Meter
from benchmarks.support.report import EVENTS, USERS, Events, Users, report_on_stack
from benchmarks.throughput import measure_run
from liveprofile.errors import ConfigError, ServiceError
from liveprofile.kafka.partitioner import partition_of
from liveprofile.settings import Settings, load
from liveprofile.storage import connection
from stack.local import Stack

POLL_S = 0.025
# Unmeasured at first: under a paced load the JVMs compile other code than in a bulk warm-up.
PACED_WARM_UP_S = 30.0
LAST_SAMPLE_TIMEOUT_S = 60.0
LOAD_SHARE = 0.7  # of the throughput


def latency(
    events: Events = EVENTS,
    users: Users = USERS,
    rate: float | None = None,
    samples: Annotated[int, typer.Option(min=10)] = 1_000,
) -> None:
    """Measure the time from the event that closes a window until its profiles can be read.

    Options:
    rate: Events per second. Default: 70 % of the throughput of a run before.
    samples: Number of profiles to measure latency on.
    """
    workload = Workload.of(events, users)

    def measure(stack: Stack) -> dict[str, Any]:
        if rate is not None:
            return measure_latency(stack, workload, rate, samples)
        fastest_per_s = measure_run(stack, "whole", "fastest", workload)["events_per_s"]
        result = measure_latency(stack, workload, LOAD_SHARE * fastest_per_s, samples)
        return {"share": LOAD_SHARE, "fastest_events_per_s": fastest_per_s, **result}

    report_on_stack("latency", workload, measure)


def speed_up(workload: Workload, events_per_s: float) -> float:
    """Event time divided by wall-clock time at this rate."""
    return events_per_s * workload.hours * 3_600 / workload.n


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p99 and maximum."""
    p50, p99 = np.quantile(values, [0.5, 0.99]).tolist()
    return {"p50": round(p50, 1), "p99": round(p99, 1), "max": round(float(max(values)), 1)}


class Schedule(NamedTuple):
    """The planned send times of n events and of the windows' closing events, from the start."""

    messages: list[EventMessage]
    due_s: np.ndarray  # (n,) ascending
    closes_s: dict[int, float]  # window end in ms -> send time of the event that closes it


def schedule(workload: Workload, settings: Settings, events_per_s: float) -> Schedule:
    """Plans the workload at `events_per_s` on average, with the relative gaps of its event times.

    Windows that no event closes are left out of `closes_s`.
    """
    messages = list(workload.messages())
    time_ms, _ = workload.times_and_users()
    due_s = (time_ms - workload.start_ms) / 1000 / speed_up(workload, events_per_s)
    partitions = settings.topics.partitions
    partition = np.array([partition_of(message.key, partitions) for message in messages])
    window = settings.window
    closes_s = {}
    for end_ms in range(workload.start_ms + window.length_ms, workload.end_ms, window.length_ms):
        # The watermark is that of the slowest partition.
        closing = []
        for number in range(partitions):
            rows = np.flatnonzero(partition == number)
            first = np.searchsorted(time_ms[rows], end_ms - 1 + window.out_of_orderness_ms)
            closing.append(float(due_s[rows[first]]) if first < len(rows) else None)
        if None not in closing:
            closes_s[end_ms] = max(closing)
    return Schedule(messages, due_s, closes_s)


def sample_profiles(
    workload: Workload, window_ms: int, ends_ms: list[int], count: int
) -> dict[int, list[str]]:
    """Draws `count` profiles of these windows: window end -> user ids in random order.

    Shapes: pairs_2P has the window end and the user number of P profiles.
    """
    time_ms, user = workload.times_and_users()
    pairs_2P = np.unique(np.stack([time_ms // window_ms * window_ms + window_ms, user]), axis=1)
    pairs_2P = pairs_2P[:, np.isin(pairs_2P[0], ends_ms)]
    drawn = np.random.default_rng(workload.seed).permutation(pairs_2P.shape[1])[:count]
    users_by_window: dict[int, list[str]] = {}
    for end_ms, user_number in pairs_2P[:, drawn].T.tolist():
        users_by_window.setdefault(end_ms, []).append(user_id_of(user_number))
    return users_by_window


class ProfilePoller(threading.Thread):
    """Polls Cassandra for the sampled rows from the close of their window until they are stored.

    It polls one row at a time, in the oldest window with missing rows, to add little load. Latency
    ends when the row is seen, so it includes the polling delay.
    """

    def __init__(self, settings: Settings, send_plan: Schedule, sampled: dict[int, list[str]]):
        super().__init__(daemon=True)
        self._session = connection.connect(settings.cassandra)
        self._select = self._session.prepare(
            "SELECT model_version FROM profile_delta WHERE user_id = ? AND window_end = ?"
        )
        self._plan = send_plan
        self._missing = {end_ms: list(users) for end_ms, users in sorted(sampled.items())}
        self.latency_ms: list[float] = []
        self.start_s = 0.0  # monotonic; set before start()
        self._stopping = threading.Event()

    @property
    def missing(self) -> int:
        return sum(map(len, self._missing.values()))

    def run(self) -> None:
        while self._missing and not self._stopping.wait(POLL_S):
            end_ms, waiting = next(iter(self._missing.items()))
            closed_s = self.start_s + self._plan.closes_s[end_ms]
            if closed_s > time.monotonic():
                continue
            while waiting and self._session.execute(self._select, (waiting[-1], end_ms)).one():
                self.latency_ms.append((time.monotonic() - closed_s) * 1000)
                waiting.pop()
            if not waiting:
                del self._missing[end_ms]

    def close(self) -> None:
        self._stopping.set()
        self.join()
        connection.close(self._session)


def measure_latency(
    stack: Stack, workload: Workload, events_per_s: float, samples: int
) -> dict[str, Any]:
    """Runs the variant `whole` at `events_per_s` and measures the latency of `samples` profiles.

    They are of windows that close after the warm-up. Raises ConfigError if there are none.
    """
    runs.log_progress(f"latency: preparing {events_per_s:.0f} events/s")
    # The stack's settings have the job's windows and partitions; only topic names differ.
    settings = load(**stack.settings())
    plan = schedule(workload, settings, events_per_s)
    ends_ms = [end for end, due_s in plan.closes_s.items() if due_s > PACED_WARM_UP_S]
    if not ends_ms:
        raise ConfigError(
            f"{workload.n} events at {events_per_s:.0f} per second end before the warm-up of"
            f" {PACED_WARM_UP_S:.0f} s: give more --events"
        )
    sampled = sample_profiles(workload, settings.window.length_ms, ends_ms, samples)
    with runs.running_job(stack, "whole", "latency", workload) as job:
        poller = ProfilePoller(job.settings, plan, sampled)
        try:
            with Meter(stack) as meter:
                poller.start_s = start_s = time.monotonic()
                poller.start()
                senders = [EventSender(job.settings)] * len(plan.messages)
                sent_late_ms = send_on_schedule(senders, plan.messages, plan.due_s, start_s)
                poller.join(LAST_SAMPLE_TIMEOUT_S)
                job.check()
                if poller.missing:
                    raise ServiceError(
                        f"{poller.missing} sampled profiles are not in Cassandra"
                        f" {LAST_SAMPLE_TIMEOUT_S:.0f} s after the last event"
                    )
        finally:
            poller.close()
    latency_ms = quantiles(poller.latency_ms)
    runs.log_progress(f"latency: {latency_ms} of {len(poller.latency_ms)} profiles")
    return {
        "events_per_s": round(events_per_s),
        "speed_up": round(speed_up(workload, events_per_s), 1),
        "samples": len(poller.latency_ms),
        "windows": len(sampled),
        "latency_ms": latency_ms,
        "sent_late_ms": quantiles(sent_late_ms),
        **meter.report(),
    }


def send_on_schedule(
    senders: list[EventSender],
    messages: list[EventMessage],
    due_s: np.ndarray,
    start_s: float,
) -> list[float]:
    """Sends each event with its sender when it is due, in seconds from `start_s` (monotonic).

    Returns, for each group of events sent together, the delay of the oldest in ms.
    """
    delays_ms = []
    distinct_senders = set(senders)
    sent, count = 0, len(messages)
    while sent < count:
        now_s = time.monotonic() - start_s
        due = int(np.searchsorted(due_s, now_s, side="right"))
        if due > sent:
            delays_ms.append((now_s - float(due_s[sent])) * 1000)
            for sender, message in zip(senders[sent:due], messages[sent:due], strict=True):
                sender.send_message(message)
            sent = due
        for sender in distinct_senders:
            sender.poll()
        time.sleep(0.002)
    for sender in distinct_senders:
        sender.flush()
    return delays_ms
