"""A Python worker dies.

Load: steady. Fault: kill -9 of one of the processes that the model runs in.
Holds: no event is lost or used twice, every profile is the reference's.
Recovers: by itself; the tasks restart and bring a new worker.
"""

import pytest

from stack.local import Stack
from tests.faults.loaded_job import LoadedJob

pytestmark = pytest.mark.faults


def test_a_killed_python_worker(shop: LoadedJob, stack: Stack) -> None:
    restarts = shop.job.restarts()
    with shop.open(), shop.recovery("Python worker killed"):
        stack.taskmanager.workers()[0].kill()
        shop.wait_for_restart(since=restarts)
    shop.check()
