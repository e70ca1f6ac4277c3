"""Measures whether the metaspace and the memory of a TaskManager grow with restarts of its job.

A restart is a failure: the Python workers are killed and Flink restarts the tasks. Every
`resubmit_every`-th restart cancels and submits the job instead. Windows keep closing meanwhile,
because Flink notices a dead worker only when it sends rows to it.
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace
from typing import Any

import numpy as np
import psutil

from benchmarks.load.workload import EventSender, Workload
from benchmarks.support import runs
from cli.submission import JOB, create_tables
from liveprofile.errors import ServiceError
from liveprofile.flink import java, rest
from liveprofile.flink.rest import wait_until_running
from liveprofile.flink.submission import flink_run
from liveprofile.kafka.topics import create_topics
from liveprofile.settings import load
from models.profile.model_card import ModelCard
from stack.local import Stack

METRICS = {
    "metaspace_mb": "Status.JVM.Memory.Metaspace.Used",
    "heap_mb": "Status.JVM.Memory.Heap.Used",
    "direct_mb": "Status.JVM.Memory.Direct.MemoryUsed",
    "classes": "Status.JVM.ClassLoader.ClassesLoaded",
    "classes_unloaded": "Status.JVM.ClassLoader.ClassesUnloaded",
    "threads": "Status.JVM.Threads.Count",
}
MEGABYTE = 1e6
TIMEOUT_S = 180.0
# More than Flink's metrics.fetcher.update-interval: older metrics predate the collection.
METRICS_AGE_S = 2.0


def memory(stack: Stack) -> dict[str, float]:
    """Memory of the TaskManager after a full garbage collection: live objects only."""
    pid = stack.taskmanager.pid
    command = [str(java.home() / "bin" / "jcmd"), str(pid), "GC.run"]
    subprocess.run(command, capture_output=True, check=True)
    time.sleep(METRICS_AGE_S)
    manager_id = rest.request(stack.rest_url, "/taskmanagers")["taskmanagers"][0]["id"]
    names = ",".join(METRICS.values())
    answer = rest.request(stack.rest_url, f"/taskmanagers/{manager_id}/metrics?get={names}")
    values = {metric["id"]: float(metric["value"]) for metric in answer}
    values_by_name = {
        name: values[metric] / MEGABYTE if name.endswith("_mb") else values[metric]
        for name, metric in METRICS.items()
    }
    process = psutil.Process(pid)
    values_by_name["rss_mb"] = process.memory_info().rss / MEGABYTE
    values_by_name["processes"] = float(len(process.children(recursive=True)))
    return {name: round(value, 1) for name, value in values_by_name.items()}


class RestartableJob:
    """One job on a stack, and the ways to restart it."""

    def __init__(self, stack: Stack, window: Workload):
        self.stack = stack
        settings = load(**stack.settings())
        create_topics(settings)
        create_tables(settings, ModelCard.read(settings.model.checkpoint))
        self._sender, self._window = EventSender(settings), window
        self.submissions = 0
        self.submit()

    def submit(self) -> None:
        self.job_id = flink_run(self.stack.rest_url, JOB, ["--config", str(self.stack.config_file)])
        self.submissions += 1
        self.wait()

    def close_a_window(self) -> None:
        """Sends the events of the next window and the heartbeats that close it."""
        window = self._window
        self._sender.send_workload(window, window.end_ms)
        self._window = replace(window, seed=window.seed + 1, start_ms=window.end_ms)

    def wait(self) -> None:
        wait_until_running(self.stack.rest_url, self.job_id, TIMEOUT_S)

    def resubmit(self) -> None:
        rest.cancel(self.stack.rest_url, self.job_id)
        self.submit()

    def fail(self) -> None:
        """Kills the Python workers and waits until the tasks run again. Raises ServiceError."""
        before = self.attempts()
        workers = self.stack.taskmanager.workers()
        if not workers:
            raise ServiceError("the TaskManager has no Python worker to kill")
        for worker in workers:  # may include workers of a cancelled job
            worker.kill()
        deadline_s = time.monotonic() + TIMEOUT_S
        while self.attempts() == before:
            if time.monotonic() > deadline_s:
                raise ServiceError(f"job {self.job_id} did not restart in {TIMEOUT_S:.0f} s")
            self.close_a_window()
            time.sleep(0.5)
        self.wait()

    def attempts(self) -> int:
        """The highest attempt number of any task. The metric numRestarts would lag by a request."""
        job = f"/jobs/{self.job_id}"
        vertices = rest.request(self.stack.rest_url, job)["vertices"]
        details = [
            rest.request(self.stack.rest_url, f"{job}/vertices/{vertex['id']}")
            for vertex in vertices
        ]
        return max(task["attempt"] for detail in details for task in detail["subtasks"])


def slope(samples: list[dict[str, float]], name: str) -> float:
    """Growth per restart, by least squares over the second half; the first half is warm-up."""
    values = [sample[name] for sample in samples[len(samples) // 2 :]]
    return float(np.polyfit(np.arange(len(values)), values, 1)[0]) if len(values) > 1 else 0.0


def restarts(stack: Stack, window: Workload, count: int, resubmit_every: int) -> dict[str, Any]:
    """Measures the TaskManager's memory after each of `count` restarts, and its growth.

    window: the events of one window; more windows like it are sent during restarts.
    """
    runner = RestartableJob(stack, window)
    samples = [memory(stack)]
    for number in range(1, count + 1):
        started = time.monotonic()
        resubmits = resubmit_every > 0 and number % resubmit_every == 0
        runner.resubmit() if resubmits else runner.fail()
        seconds = time.monotonic() - started
        samples.append(memory(stack))
        runs.log_progress(
            f"restart {number} of {count} ({'resubmitted' if resubmits else 'workers killed'},"
            f" {seconds:.1f} s): metaspace {samples[-1]['metaspace_mb']} MB,"
            f" resident {samples[-1]['rss_mb']} MB"
        )
    return {
        "restarts": count,
        "submissions": runner.submissions,
        "first": samples[0],
        "last": samples[-1],
        "per_restart": {name: round(slope(samples, name), 3) for name in samples[0]},
        "metaspace_mb": [sample["metaspace_mb"] for sample in samples],
        "rss_mb": [sample["rss_mb"] for sample in samples],
    }
