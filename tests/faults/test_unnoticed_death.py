"""A Python worker dies after it has answered and before it has sent all results.

Flink's operator does not notice: it waits for the rest of the results (docs/operate.md).
Load: a row a second. Fault: the worker is suspended there and killed.
Must hold: the job restarts, although no task has failed.
Recovery: automatic; the worker's guard suspends the TaskManager until the JobManager gives it up.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from liveprofile.flink import rest
from stack.local import Stack
from tests.support import summary
from tests.support.job_under_test import task_restarts
from tests.support.waiting import until

pytestmark = pytest.mark.faults

JOB = Path(__file__).with_name("large_results_job.py")
NOTICE_S, PAUSE_S = 10.0, 25.0  # longer than heartbeat.timeout of tests.conftest
SENT_S = 4.0  # after it the worker has sent all that the channel takes
TIMEOUT_S = 240.0


class LargeResultsJob:
    """`folder`: where the job's function leaves the files `called` and `returned`."""

    def __init__(self, stack: Stack, folder: Path):
        arguments = ("--calls", str(folder), "--notice-s", str(NOTICE_S), "--pause-s", str(PAUSE_S))
        self._stack, self._folder = stack, folder
        self.id = stack.submit(JOB, *arguments)
        rest.wait_until_running(stack.rest_url, self.id, TIMEOUT_S)

    def wait_for(self, step: str) -> None:
        """Returns when the function reaches `step` again."""
        file = self._folder / step
        file.unlink(missing_ok=True)
        wait_until(file.exists)

    def restarts(self) -> int:
        return task_restarts(self._stack.rest_url, self.id)


@pytest.fixture
def large_results_job(stack: Stack, tmp_path: Path) -> Iterator[LargeResultsJob]:
    job = LargeResultsJob(stack, tmp_path)
    yield job
    rest.cancel(stack.rest_url, job.id)


wait_until = partial(until, timeout_s=TIMEOUT_S)


def test_job_recovers_when_operator_does_not_notice_the_death_of_its_worker(
    stack: Stack, large_results_job: LargeResultsJob
) -> None:
    large_results_job.wait_for("called")
    worker = stack.taskmanager.newest_worker()
    stack.taskmanager.pause()  # so that the results do not get through
    try:
        large_results_job.wait_for("returned")
        time.sleep(SENT_S)
        worker.suspend()
    finally:
        stack.taskmanager.resume()
    time.sleep(1.0)  # the operator reads the answer
    started_s = time.monotonic()
    worker.kill()
    wait_until(lambda: large_results_job.restarts() > 0)
    large_results_job.wait_for("called")
    seconds = time.monotonic() - started_s
    assert seconds > NOTICE_S, "Flink has noticed the death: this test proves nothing"
    message = f"Python worker {worker.pid} died; its operator has hung since"
    assert message in stack.taskmanager.log.read_text(errors="replace")
    summary.LINES.append(
        f"recovered in {seconds:.0f} s: death of a Python worker that its operator does not notice"
    )
