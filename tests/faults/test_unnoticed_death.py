"""A Python worker dies after it has answered and before it has sent all results.

Flink's operator does not notice: it waits for the rest of the results (docs/operate.md).
Must hold: the job restarts, although no task has failed.
Recovery: automatic; the worker's guard suspends the TaskManager until the JobManager gives it up.
"""

import time
from functools import partial
from pathlib import Path

from liveprofile.flink import rest
from liveprofile.flink.submission import flink_run
from stack.local import Stack
from tests.support import summary
from tests.support.job_under_test import task_restarts
from tests.support.local_stack import newest_worker
from tests.support.waiting import until

JOB = Path(__file__).with_name("large_results_job.py")
NOTICE_S, PAUSE_S = 6.0, 23.0  # longer than heartbeat.timeout of tests.support.local_stack
SENT_S = 4.0  # after it the worker has sent all that the channel takes
TIMEOUT_S = 240.0

wait_until = partial(until, timeout_s=TIMEOUT_S)


def test_job_recovers_when_operator_does_not_notice_the_death_of_its_worker(
    stack: Stack, tmp_path: Path
) -> None:
    def wait_for(step: str) -> None:
        """Returns when the job's function reaches `step` again."""
        (tmp_path / step).unlink(missing_ok=True)
        wait_until((tmp_path / step).exists)

    options = ("--calls", str(tmp_path), "--notice-s", str(NOTICE_S), "--pause-s", str(PAUSE_S))
    job_id = flink_run(stack.rest_url, JOB, options)
    try:
        wait_for("called")
        worker = newest_worker(stack.taskmanager)
        stack.taskmanager.pause()  # so that the results do not get through
        try:
            wait_for("returned")
            time.sleep(SENT_S)
            worker.suspend()
        finally:
            stack.taskmanager.resume()
        time.sleep(1.0)  # the operator reads the answer
        started_s = time.monotonic()
        worker.kill()
        wait_until(lambda: task_restarts(stack.rest_url, job_id) > 0)
        wait_for("called")
        seconds = time.monotonic() - started_s
    finally:
        rest.cancel(stack.rest_url, job_id)
    assert seconds > NOTICE_S, "Flink has noticed the death: this test proves nothing"
    message = f"Python worker {worker.pid} died; its operator has hung since"
    assert message in stack.taskmanager.log.read_text(errors="replace")
    summary.LINES.append(
        f"recovered in {seconds:.0f} s: death of a Python worker that its operator does not notice"
    )
