"""A TaskManager dies.

Load: steady. Fault: kill -9 of the only TaskManager, its Python workers with it.
Holds: no event is lost or used twice, every profile is the reference's.
Recovers: by itself once a TaskManager is there again, from the last checkpoint.
"""

import pytest

from stack.local import Stack
from tests.faults.loaded_job import LoadedJob

pytestmark = pytest.mark.faults


def test_a_killed_taskmanager(shop: LoadedJob, stack: Stack) -> None:
    restarts = shop.job.restarts()
    with shop.open(), shop.recovery("TaskManager killed"):
        stack.taskmanager.kill()
        stack.taskmanager.start()
    assert shop.job.restarts() > restarts
    shop.check()
