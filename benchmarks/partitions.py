"""Partition benchmark: uneven partitions with and without alignment, and a quiet partition.

    python -m benchmarks.partitions

Prints one line of JSON. docs/benchmarks.md has the method.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import numpy as np
import typer
from cassandra.cluster import Session

from benchmarks.latency import quantiles
from benchmarks.load.events import EventMessage, user_id_of
from benchmarks.load.workload import EventSender, Workload, partition_of
from benchmarks.support import environment, runs
from benchmarks.support.runs import RunningJob
from liveprofile.events import window_times
from liveprofile.flink import rest
from liveprofile.resources import STACK_FOLDER
from liveprofile.settings import WindowSettings
from liveprofile.storage import queries
from liveprofile.storage.connection import open_session
from stack.local import Stack

FULL_PARTITION = QUIET_PARTITION = 0
DRIFT_MS = 300_000
CHECKPOINTS = {"checkpoint_interval_ms": 1_000}
RUN_TIMEOUT_S = 600.0
POLL_S = 0.02
CHECKPOINT_POLL_S = 0.3
# Live traffic for the quiet partition.
LIVE_WINDOW = {"length_ms": 5_000, "out_of_orderness_ms": 1_000}
EVENTS_PER_S = 200
WARM_UP_WINDOWS = 3
QUIET_CASES = ("all", "heartbeat", "none")


def uneven(stack: Stack, drift_ms: int, events: int, light_share: float) -> dict[str, Any]:
    """Reads a backlog whose first partition has 1 / `light_share` as many events as the others.

    drift_ms: `window.max_partition_drift_ms`. Returns seconds until the last profile, and the sizes
    of the checkpoints on the way.
    """
    workload = Workload.of(events, events // 20)
    window = {"max_partition_drift_ms": drift_ms}
    overrides = {"window": window, "job": CHECKPOINTS}
    with runs.running_job(stack, "whole", f"uneven-{drift_ms}", workload, overrides) as job:
        partitions = job.settings.topics.partitions
        kept = kept_events(workload, partitions, light_share)
        sender = EventSender(job.settings, transaction=True)
        for message in itertools.compress(workload.messages(), kept):
            sender.send(message)
        sender.send_heartbeats(workload.end_ms + job.settings.window.length_ms)
        sender.flush()
        profiles = count_profiles(workload, kept, job.settings.window)
        earlier = job.journal.update()
        with _checkpoint_sizes(job) as size_of:
            started_s = time.time()
            sender.commit()
            job.wait_for_rows(earlier + profiles, RUN_TIMEOUT_S)
        seconds = max(entry.at_s for entry in job.journal.entries) - started_s
        job.check()
    result = {
        "max_partition_drift_ms": drift_ms,
        "events_per_partition": _per_partition(workload, kept, partitions),
        "profiles": profiles,
        "seconds": round(seconds, 1),
        "checkpoints": len(size_of),
        "largest_checkpoint_mb": round(max(size_of.values()) / 1e6, 1),
        "mean_checkpoint_mb": round(fmean(size_of.values()) / 1e6, 1),
    }
    runs.log_progress(str(result))
    return result


def kept_events(workload: Workload, partitions: int, light_share: float) -> np.ndarray:
    """(n,) which events are sent: all of FULL_PARTITION and a share of the others."""
    number = np.arange(workload.n)
    is_full = _partition_of_each(workload, partitions) == FULL_PARTITION
    return is_full | (number % 1_000 < 1_000 * light_share)


def _partition_of_each(workload: Workload, partitions: int) -> np.ndarray:
    _, user = workload.times_and_users()
    of_user = [
        partition_of(user_id_of(number).encode(), partitions) for number in range(user.max() + 1)
    ]
    return np.array(of_user)[user]


def _per_partition(workload: Workload, kept: np.ndarray, partitions: int) -> list[int]:
    partition = _partition_of_each(workload, partitions)[kept]
    return np.bincount(partition, minlength=partitions).tolist()


def count_profiles(workload: Workload, kept: np.ndarray, window: WindowSettings) -> int:
    """The number of profiles of the events that are sent."""
    time_ms, user = workload.times_and_users()
    end_ms = window_times.end_ms(time_ms, 0, window)
    return len(np.unique((end_ms * workload.users + user)[kept]))


@contextmanager
def _checkpoint_sizes(job: RunningJob) -> Iterator[dict[int, int]]:
    """Yields the full size in bytes of each checkpoint that completes in the block, by its id.

    Asks again and again, because Flink's history has the last ten only.
    """
    size_of: dict[int, int] = {}
    stop = threading.Event()

    def latest() -> dict[str, Any]:
        path = f"/jobs/{job.job_id}/checkpoints"
        return rest.request(job.stack.rest_url, path)["latest"]["completed"]

    def follow(first: int) -> None:
        while not stop.wait(CHECKPOINT_POLL_S):
            checkpoint = latest()
            if checkpoint["id"] > first:
                size_of[checkpoint["id"]] = checkpoint["state_size"]

    thread = threading.Thread(target=follow, args=(latest()["id"],))
    thread.start()
    try:
        yield size_of
    finally:
        stop.set()
        thread.join()


def quiet(stack: Stack, seconds: float) -> list[dict[str, Any]]:
    """Measures how long after its end a window of live traffic is stored, in three cases in turn.

    All partitions have events; one has heartbeats only; then it has nothing.
    """
    with (
        runs.running_job(stack, "whole", "quiet", None, {"window": LIVE_WINDOW}) as job,
        open_session(job.settings.cassandra) as session,
    ):
        results = []
        for case in QUIET_CASES:
            with (
                _live_events(job, case) as user_id,
                _heartbeats(runs.config_file(stack, "quiet"), case == "heartbeat"),
            ):
                delays_ms = _window_delays(session, user_id, seconds)[WARM_UP_WINDOWS:]
            delay_ms = quantiles([delays_ms]) if delays_ms else None
            results.append({"case": case, "windows": len(delays_ms), "delay_ms": delay_ms})
            runs.log_progress(str(results[-1]))
        job.check()
    return results


def _window_delays(session: Session, user_id: str, seconds: float) -> list[float]:
    """Milliseconds from the end of each window of a user, from now on, until it is readable."""
    delays_ms: list[float] = []
    newest_ms = time.time() * 1_000
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s:
        for delta in queries.deltas(session, user_id, 1):
            if delta.window_end_ms > newest_ms:
                newest_ms = delta.window_end_ms
                delays_ms.append(time.time() * 1_000 - newest_ms)
        time.sleep(POLL_S)
    return delays_ms


@contextmanager
def _live_events(job: RunningJob, case: str) -> Iterator[str]:
    """Sends views of now from a thread; yields a user who has some in every window."""
    partitions = job.settings.topics.partitions
    users = [f"user{number}" for number in range(100)]
    of_others = [
        user for user in users if partition_of(user.encode(), partitions) != QUIET_PARTITION
    ]
    if case != "all":
        users = of_others
    stop = threading.Event()

    def send() -> None:
        sender, number, start_s = EventSender(job.settings), 0, time.monotonic()
        while not stop.is_set():
            user = users[number % len(users)]
            event = {
                "event_id": f"{case}-{number}",
                "user_id": user,
                "event_type": "view",
                "event_time": time.time_ns() // 1_000_000,
            }
            sender.send(EventMessage(user.encode(), json.dumps(event).encode()))
            sender.poll()
            number += 1
            time.sleep(max(0.0, start_s + number / EVENTS_PER_S - time.monotonic()))
        sender.flush()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield of_others[0]
    finally:
        stop.set()
        thread.join()


@contextmanager
def _heartbeats(config: Path, wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    command = Path(sys.executable).with_name("liveprofile")
    process = subprocess.Popen([command, "heartbeat", "--config", config])
    try:
        yield
        assert process.poll() is None, "the heartbeat service ended"
    finally:
        process.terminate()
        process.wait()


def main(
    root: Annotated[
        Path, typer.Option(help="Folder for the benchmark's own stack; removed at the end.")
    ] = STACK_FOLDER / "bench",
    events: Annotated[int, typer.Option(min=10_000, help="Events before the selection.")] = 300_000,
    light_share: Annotated[
        float, typer.Option(help="Share of their events that all partitions but one keep.")
    ] = 0.15,
    seconds: Annotated[float, typer.Option(min=20, help="Of live traffic per case.")] = 60,
) -> None:
    """Measure uneven partitions with and without alignment, and a quiet partition."""
    fields = environment.describe()
    with runs.started_stack(root, "periodic") as stack:
        aligned = [uneven(stack, drift_ms, events, light_share) for drift_ms in (0, DRIFT_MS)]
        closed = quiet(stack, seconds)
    result = {"benchmark": "partitions", **fields, "uneven": aligned, "quiet": closed}
    typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
