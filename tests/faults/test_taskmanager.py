"""A TaskManager dies.

Load: steady. Fault: kill -9 of the only TaskManager and its Python workers.
Must hold: no event is lost or used twice, every profile equals the reference's.
Recovery: automatic once a TaskManager is up, from the last checkpoint.
"""

import pytest

from stack.local import Stack
from tests.faults.loaded_job import LoadedJob

pytestmark = pytest.mark.faults


def test_job_recovers_when_taskmanager_is_killed(loaded_job: LoadedJob, stack: Stack) -> None:
    restarts = loaded_job.job.restarts()
    with loaded_job.load(), loaded_job.recovery("TaskManager killed"):
        stack.taskmanager.kill()
        stack.taskmanager.start()
    assert loaded_job.job.restarts() > restarts
    loaded_job.check()
