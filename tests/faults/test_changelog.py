"""A Python worker dies in a job that logs each change of its state.

Load: steady. Fault: kill -9 of the process that one of its models runs in, after the job went on
from a savepoint.
Holds: no event is lost or used twice, every profile is the reference's.
Recovers: by itself; the tasks read RocksDB's last checkpoint of its own and the log behind it.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from stack import flink
from stack.local import Stack
from tests.faults.shop import WINDOW, opened
from tests.live import Job

pytestmark = pytest.mark.faults


def test_a_job_with_a_changelog(new_job: Callable[..., Job], stack: Stack, tmp_path: Path) -> None:
    job = new_job("changelog", window=WINDOW, job={"changelog": True, "parallelism": 1})
    others = set(stack.taskmanager.workers())
    job.submit()
    with opened(job) as shop:
        # Flink refuses the first checkpoint after one, unless the job claims it.
        savepoint = flink.stop_with_savepoint(job.rest_url, job.id, tmp_path.as_uri())
        job.submit("--savepoint", savepoint)
        restarts = job.restarts()
        with shop.open(), shop.recovery("Python worker killed, state with a changelog"):
            own = set(stack.taskmanager.workers()) - others
            own.pop().kill()
            shop.wait_for_restart(since=restarts)
        shop.check()
        settings = flink.request(job.rest_url, f"/jobs/{job.id}/checkpoints/config")
        assert settings["state_changelog_enabled"]
