"""A part of the cluster is suspended (SIGSTOP) for 10 s: connections stay open without an answer.

Load: steady. Faults: the broker, the JobManager, the TaskManager, a Python worker, one at a time.
Must hold: no event is lost or used twice, every profile equals the reference's.
Recovery: automatic, without a restart. test_cassandra.py suspends Cassandra.
"""

from __future__ import annotations

import time

import pytest

from stack.local import Stack
from tests.faults.loaded_job import LoadedJob

pytestmark = pytest.mark.faults

PAUSE_S = 10


@pytest.mark.parametrize("part", ["kafka", "jobmanager", "taskmanager"])
def test_paused_service_causes_no_restart(loaded_job: LoadedJob, stack: Stack, part: str) -> None:
    restarts = loaded_job.job.restarts()
    service = getattr(stack, part)
    with loaded_job.load(), loaded_job.recovery(f"{part} paused for {PAUSE_S} s"):
        service.pause()
        try:
            time.sleep(PAUSE_S)
        finally:
            service.resume()
    loaded_job.check()
    assert loaded_job.job.restarts() == restarts


def test_paused_python_worker_causes_no_restart(loaded_job: LoadedJob, stack: Stack) -> None:
    restarts = loaded_job.job.restarts()
    with loaded_job.load(), loaded_job.recovery(f"Python worker paused for {PAUSE_S} s"):
        worker = stack.taskmanager.workers()[0]
        worker.suspend()
        try:
            time.sleep(PAUSE_S)
        finally:
            worker.resume()
    loaded_job.check()
    assert loaded_job.job.restarts() == restarts
