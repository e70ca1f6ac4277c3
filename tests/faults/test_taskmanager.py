"""A TaskManager dies.

Load: steady. Faults: kill -9 of the only TaskManager and its Python workers; of one of two.
Must hold: no event is lost or used twice, every profile equals the reference's.
Recovery: automatic from the last checkpoint, once a TaskManager is up, or on the other one.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from liveprofile.flink import rest
from stack.cluster import TaskManager
from stack.local import Stack
from stack.state import StackState
from tests.faults.jobs.loaded_job import RECOVERY_TIMEOUT_S, LoadedJob
from tests.faults.monitoring.alerts import Fires

pytestmark = pytest.mark.faults


class SecondTaskManager(TaskManager):
    name = "second-taskmanager"


@pytest.fixture
def second_taskmanager(stack: Stack, loaded_job: LoadedJob) -> Iterator[TaskManager]:
    second = SecondTaskManager(stack.root, StackState(stack.root), None)
    second.start()
    yield second
    stack.start()
    restarts = loaded_job.job.restarts()
    second.stop()
    wait_until_restarted(loaded_job, restarts)


def wait_until_restarted(loaded_job: LoadedJob, restarts: int) -> None:
    loaded_job.wait_for_restart(since=restarts)
    job = loaded_job.job
    rest.wait_until_running(job.rest_url, str(job.id), RECOVERY_TIMEOUT_S)


def test_job_recovers_when_taskmanager_is_killed(
    loaded_job: LoadedJob, stack: Stack, fires: Fires
) -> None:
    restarts = loaded_job.job.restarts()
    with (
        loaded_job.load(),
        fires(loaded_job.job, "LiveprofileJobRestarted"),
        loaded_job.recovery("TaskManager killed"),
    ):
        stack.taskmanager.kill()
        stack.taskmanager.start()
    assert loaded_job.job.restarts() > restarts
    loaded_job.check()


def test_job_moves_to_the_other_taskmanager(
    loaded_job: LoadedJob, stack: Stack, second_taskmanager: TaskManager, fires: Fires
) -> None:
    restarts = loaded_job.job.restarts()
    with (
        loaded_job.load(),
        fires(loaded_job.job, "LiveprofileJobRestarted"),
        loaded_job.recovery("one of two TaskManagers killed"),
    ):
        stack.taskmanager.kill()
        wait_until_restarted(loaded_job, restarts)
        assert not stack.taskmanager.alive() and second_taskmanager.workers()
    loaded_job.check()
