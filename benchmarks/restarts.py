"""Restarts of a job in one TaskManager: does its metaspace, or its memory, grow with them?

Every restart is a failure (the Python workers are killed and the tasks start anew), but for each
`resubmit_every`-th, for which the job is cancelled and submitted again. Windows close all the
while: a dead worker is noticed when rows are handed to it.
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace
from typing import Any

import numpy as np
import psutil

from benchmarks.load.load import Load, Sender
from benchmarks.support import runs
from cli.pipeline.submit import JOB
from liveprofile.config import load
from liveprofile.errors import ServiceError
from liveprofile.flink import java, rest
from liveprofile.flink.rest import wait_until_running
from liveprofile.kafka.topics import create_topics
from liveprofile.storage.schema import create_schema
from models.profile.checkpoint import Card
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
# The metrics may be as old as metrics.fetcher.update-interval, and a bit.
METRICS_AGE_S = 2.0


def memory(stack: Stack) -> dict[str, float]:
    """Of the TaskManager after a full garbage collection, so that only what is held counts."""
    pid = stack.taskmanager.pid
    collect = [str(java.home() / "bin" / "jcmd"), str(pid), "GC.run"]
    subprocess.run(collect, capture_output=True, check=True)
    time.sleep(METRICS_AGE_S)
    manager = rest.request(stack.rest_url, "/taskmanagers")["taskmanagers"][0]["id"]
    names = ",".join(METRICS.values())
    answer = rest.request(stack.rest_url, f"/taskmanagers/{manager}/metrics?get={names}")
    values = {metric["id"]: float(metric["value"]) for metric in answer}
    found = {
        name: values[metric] / MEGABYTE if name.endswith("_mb") else values[metric]
        for name, metric in METRICS.items()
    }
    process = psutil.Process(pid)
    found["rss_mb"] = process.memory_info().rss / MEGABYTE
    found["processes"] = float(len(process.children(recursive=True)))
    return {name: round(value, 1) for name, value in found.items()}


class Runner:
    """One job on a stack, and the ways to restart it."""

    def __init__(self, stack: Stack, window: Load):
        self.stack = stack
        settings = load(**stack.settings())
        create_topics(settings)
        create_schema(settings.cassandra, Card.read(settings.model.checkpoint).shape["embedding"])
        self._sender, self._window = Sender(settings), window
        self.submissions = 0
        self.submit()

    def submit(self) -> None:
        self.job_id = self.stack.submit(JOB, "--config", str(self.stack.config_file))
        self.submissions += 1
        self.wait()

    def close_a_window(self) -> None:
        """Sends one window's events, later than all before, and the heartbeats behind it."""
        window = self._window
        self._sender.send_all(window, window.end_ms)
        self._window = replace(window, seed=window.seed + 1, start_ms=window.end_ms)

    def wait(self) -> None:
        wait_until_running(self.stack.rest_url, self.job_id, TIMEOUT_S)

    def resubmit(self) -> None:
        rest.cancel(self.stack.rest_url, self.job_id)
        self.submit()

    def fail(self) -> None:
        """Kills the Python workers, and waits until the tasks have started anew."""
        before = self.attempts()
        workers = self.stack.taskmanager.workers()
        if not workers:
            raise ServiceError("the TaskManager has no Python worker to kill")
        for worker in workers:  # a cancelled job's may be among them
            worker.kill()
        deadline_s = time.monotonic() + TIMEOUT_S
        while self.attempts() == before:
            if time.monotonic() > deadline_s:
                raise ServiceError(f"job {self.job_id} did not restart in {TIMEOUT_S:.0f} s")
            self.close_a_window()
            time.sleep(0.5)
        self.wait()

    def attempts(self) -> int:
        """The highest of any task: the metric numRestarts is as old as the question before."""
        job = f"/jobs/{self.job_id}"
        vertices = rest.request(self.stack.rest_url, job)["vertices"]
        details = [
            rest.request(self.stack.rest_url, f"{job}/vertices/{vertex['id']}")
            for vertex in vertices
        ]
        return max(task["attempt"] for detail in details for task in detail["subtasks"])


def slope(samples: list[dict[str, float]], name: str) -> float:
    """Growth a restart, by least squares over the second half: the first one warms up."""
    values = [sample[name] for sample in samples[len(samples) // 2 :]]
    return float(np.polyfit(np.arange(len(values)), values, 1)[0]) if len(values) > 1 else 0.0


def restarts(stack: Stack, window: Load, count: int, resubmit_every: int) -> dict[str, Any]:
    """The TaskManager's memory after each of `count` restarts, and its growth.

    window: the events of one window; its like are sent while a restart is awaited.
    """
    runner = Runner(stack, window)
    samples = [memory(stack)]
    for number in range(1, count + 1):
        started = time.monotonic()
        again = resubmit_every > 0 and number % resubmit_every == 0
        runner.resubmit() if again else runner.fail()
        seconds = time.monotonic() - started
        samples.append(memory(stack))
        runs.say(
            f"restart {number} of {count} ({'submitted again' if again else 'workers killed'},"
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
