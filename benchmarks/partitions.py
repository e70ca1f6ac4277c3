"""Partition benchmark: uneven partitions with and without alignment, and a quiet partition.

    python -m benchmarks.partitions

Prints one line of JSON. docs/benchmarks.md has the method.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.latency import quantiles
from benchmarks.load.events import EventMessage
from benchmarks.load.workload import EventSender, Workload, partition_of
from benchmarks.support import environment, runs
from benchmarks.support.runs import RunningJob
from liveprofile.flink import rest
from liveprofile.ingest.replay import ReplayProducer
from liveprofile.resources import STACK_FOLDER
from liveprofile.storage import queries
from liveprofile.storage.connection import open_session
from stack.local import Stack

FULL_PARTITION = 0
DRIFT_MS = 300_000
CHECKPOINTS = {"checkpoint_interval_ms": 1_000}
RUN_TIMEOUT_S = 600.0
POLL_S = 0.02
# Live traffic for the quiet partition.
LIVE_WINDOW = {"length_ms": 5_000, "out_of_orderness_ms": 1_000}
EVENTS_PER_S = 200
WARM_UP_WINDOWS = 3


def uneven(stack: Stack, drift_ms: int, events: int, light_share: float) -> dict[str, Any]:
    """Reads a backlog whose first partition has 1 / `light_share` as many events as the others.

    drift_ms: `window.max_partition_drift_ms`. Returns seconds and the largest checkpoint.
    """
    workload = Workload.of(events, events // 20)
    window = {"max_partition_drift_ms": drift_ms}
    overrides = {"window": window, "job": CHECKPOINTS}
    with runs.running_job(stack, "whole", f"uneven-{drift_ms}", workload, overrides) as job:
        sender = EventSender(job.settings, transaction=True)
        partitions = job.settings.topics.partitions
        counts = [0] * partitions
        for number, message in enumerate(workload.messages()):
            partition = partition_of(message.key, partitions)
            if partition == FULL_PARTITION or number % 1_000 < 1_000 * light_share:
                sender.send(message)
                counts[partition] += 1
        sender.flush()
        started_s = time.time()
        sender.commit()
        beats = ReplayProducer(job.settings, job.settings.topics.events, lambda sent: None)
        beats.send_heartbeats(workload.end_ms + job.settings.window.length_ms)
        beats.flush()
        _wait_until_idle(job)
        seconds = max(entry.at_s for entry in job.journal.entries) - started_s
        sizes = _checkpoint_bytes(job, started_s)
        job.check()
    result = {
        "max_partition_drift_ms": drift_ms,
        "events_per_partition": counts,
        "seconds": round(seconds, 1),
        "largest_checkpoint_mb": round(max(sizes) / 1e6, 1),
        "last_checkpoint_mb": round(sizes[-1] / 1e6, 1),
    }
    runs.log_progress(str(result))
    return result


def _wait_until_idle(job: RunningJob, idle_s: float = 10.0) -> None:
    """Returns when the job has made no profile for `idle_s`."""
    deadline_s = time.monotonic() + RUN_TIMEOUT_S
    rows, since_s = -1, time.monotonic()
    while time.monotonic() < deadline_s:
        done = job.journal.update()
        if done != rows:
            rows, since_s = done, time.monotonic()
        elif time.monotonic() > since_s + idle_s:
            return
        time.sleep(POLL_S)
    raise AssertionError(f"the job still works after {RUN_TIMEOUT_S:.0f} s")


def _checkpoint_bytes(job: RunningJob, since_s: float) -> list[int]:
    """The full size of each completed checkpoint since a time, the oldest first."""
    history = rest.request(job.stack.rest_url, f"/jobs/{job.job_id}/checkpoints")["history"]
    return [
        checkpoint["state_size"]
        for checkpoint in reversed(history)
        if checkpoint["status"] == "COMPLETED"
        and checkpoint["trigger_timestamp"] >= since_s * 1_000
    ]


def quiet(stack: Stack, name: str, seconds: float, **options: bool) -> dict[str, Any]:
    """Measures when windows of live traffic are stored, by their end.

    options: `quiet`: one partition gets no events; `heartbeat`: each partition gets heartbeats.
    """
    overrides = {"window": LIVE_WINDOW}
    with (
        runs.running_job(stack, "whole", f"quiet-{name}", None, overrides) as job,
        _live_events(job, options["quiet"]) as user_id,
        _heartbeats(runs.config_file(stack, f"quiet-{name}"), options["heartbeat"]),
        open_session(job.settings.cassandra) as session,
    ):
        delays_ms, newest_ms = [], 0
        deadline_s = time.monotonic() + seconds
        while time.monotonic() < deadline_s:
            for delta in queries.deltas(session, user_id, 1):
                if delta.window_end_ms > newest_ms:
                    newest_ms = delta.window_end_ms
                    delays_ms.append(time.time() * 1_000 - newest_ms)
            time.sleep(POLL_S)
        job.check()
    delays_ms = delays_ms[WARM_UP_WINDOWS:]
    result = {
        "case": name,
        **options,
        "windows": len(delays_ms),
        "delay_ms": quantiles([delays_ms]) if delays_ms else None,
    }
    runs.log_progress(str(result))
    return result


@contextmanager
def _live_events(job: RunningJob, one_is_quiet: bool) -> Iterator[str]:
    """Sends views of now from a thread; yields a user who has some in every window."""
    partitions = job.settings.topics.partitions
    users = [
        f"user{number}"
        for number in range(100)
        if not one_is_quiet or partition_of(f"user{number}".encode(), partitions)
    ]
    stop = threading.Event()

    def send() -> None:
        sender, number, start_s = EventSender(job.settings), 0, time.monotonic()
        while not stop.is_set():
            user = users[number % len(users)]
            event = {
                "event_id": str(number),
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
        yield users[0]
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
        closed = [
            quiet(stack, "all", seconds, quiet=False, heartbeat=False),
            quiet(stack, "heartbeat", seconds, quiet=True, heartbeat=True),
            quiet(stack, "none", seconds, quiet=True, heartbeat=False),
        ]
    result = {"benchmark": "partitions", **fields, "uneven": aligned, "quiet": closed}
    typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
