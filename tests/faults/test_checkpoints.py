"""The folder for checkpoints cannot be written, as on a full or read-only disk.

Load: steady. Fault: a file takes the place of the job's folder for 15 s, about 7 checkpoints.
Must hold: the job runs on without a restart, `liveprofile job status` warns, no event is lost or
used twice, and every profile equals the reference's.
Recovery: automatic with the first checkpoint after the folder is back.
"""

import time
from pathlib import Path
from urllib.parse import urlparse

import pytest

from liveprofile.flink import rest
from tests.faults.jobs.loaded_job import LoadedJob
from tests.faults.monitoring.alerts import Fires
from tests.support.job_under_test import run_cli

pytestmark = pytest.mark.faults

BROKEN_S = 15


def test_job_runs_on_when_no_checkpoint_can_be_written(loaded_job: LoadedJob, fires: Fires) -> None:
    job = loaded_job.job
    restarts = job.restarts()
    with loaded_job.load(), fires(job, "LiveprofileCheckpointFailed"):
        latest = rest.request(job.rest_url, f"/jobs/{job.id}/checkpoints")["latest"]["completed"]
        folder = Path(urlparse(latest["external_path"]).path).parent
        moved = folder.with_name(f"{folder.name}-moved")
        folder.rename(moved)
        folder.write_text("in the way")
        time.sleep(BROKEN_S)
        status = run_cli("job", "status", "--config", job.config_file, ok=False)
        folder.unlink()
        moved.rename(folder)
        job.wait_for_checkpoint(180)
    assert status.returncode == 1 and "no checkpoint has completed" in status.stderr
    assert job.restarts() == restarts
    loaded_job.check()
    job.wait_for_checkpoint(180)
    assert run_cli("job", "status", "--config", job.config_file).stderr == ""
