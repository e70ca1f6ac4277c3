"""A Python worker dies.

Load: steady. Fault: kill -9 of one of the processes that the model runs in.
Must hold: no event is lost or used twice, every profile equals the reference's.
Recovery: automatic; the tasks restart with a new worker.
"""

import pytest

from tests.faults.jobs.loaded_job import LoadedJob
from tests.faults.monitoring.alerts import Fires

pytestmark = pytest.mark.faults


def test_job_recovers_when_python_worker_is_killed(loaded_job: LoadedJob, fires: Fires) -> None:
    with (
        loaded_job.load(),
        fires(loaded_job.job, "LiveprofileJobRestarted"),
        loaded_job.recovery("Python worker killed"),
    ):
        loaded_job.kill_worker()
    loaded_job.check()
