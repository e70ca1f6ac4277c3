"""A part of the stack is suspended (SIGSTOP) for 10 s: connections stay open without an answer.

Load: steady. Faults: the broker, Cassandra, the JobManager, the TaskManager, a Python worker, one
at a time. It is longer than a request to Cassandra may take.
Must hold: no event is lost or used twice, every profile equals the reference's.
Recovery: automatic, without a restart.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from stack.local import Stack
from tests.faults.jobs.loaded_job import LoadedJob

pytestmark = pytest.mark.faults

PAUSE_S = 10


@pytest.mark.parametrize("part", ["kafka", "cassandra", "jobmanager", "taskmanager"])
def test_paused_service_causes_no_restart(loaded_job: LoadedJob, stack: Stack, part: str) -> None:
    service = getattr(stack, part)
    check_pause(loaded_job, part, service.pause, service.resume)


def test_paused_python_worker_causes_no_restart(loaded_job: LoadedJob, stack: Stack) -> None:
    worker = stack.taskmanager.workers()[0]
    check_pause(loaded_job, "Python worker", worker.suspend, worker.resume)


def check_pause(
    loaded_job: LoadedJob, part: str, pause: Callable[[], None], resume: Callable[[], None]
) -> None:
    restarts = loaded_job.job.restarts()
    with loaded_job.load(), loaded_job.recovery(f"{part} paused for {PAUSE_S} s"):
        pause()
        try:
            time.sleep(PAUSE_S)
        finally:
            resume()
    loaded_job.check()
    assert loaded_job.job.restarts() == restarts
