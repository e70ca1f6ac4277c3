"""One operator fails once: after the source, at the model call, or at the write to Cassandra.

Load: steady. Fault: an exception in the Python worker (tests/faults/jobs/failing_job.py).
Must hold: the job fails visibly instead of losing rows; no event is lost or used twice, every
profile equals the reference's. (The Kafka sink fails in test_broker.py.)
Recovery: automatic, from the last checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from liveprofile.flink.rest import wait_until_running
from tests.faults.jobs.loaded_job import WINDOW, LoadedJob, open_loaded_job
from tests.faults.monitoring.alerts import Fires
from tests.support.job_under_test import JobUnderTest

pytestmark = pytest.mark.faults

JOB = Path(__file__).parent / "jobs" / "failing_job.py"


@pytest.fixture(scope="module")
def faults_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("armed")


@pytest.fixture(scope="module")
def loaded_job(new_job: Callable[..., JobUnderTest], faults_folder: Path) -> Iterator[LoadedJob]:
    job = new_job("operators", window=WINDOW)
    arguments = ("--config", str(job.config_file), "--faults", str(faults_folder))
    job.id = job.stack.submit(JOB, *arguments)
    wait_until_running(job.rest_url, job.id, timeout_s=180)
    with open_loaded_job(job, with_scoring=False) as loaded_job:
        yield loaded_job


@pytest.mark.parametrize("fault", ["source", "model", "write"])
def test_job_recovers_when_operator_fails_once(
    fault: str, loaded_job: LoadedJob, faults_folder: Path, fires: Fires
) -> None:
    restarts = loaded_job.job.restarts()
    with (
        loaded_job.load(),
        fires(loaded_job.job, "LiveprofileJobRestarted"),
        loaded_job.recovery(f"{fault} fails"),
    ):
        (faults_folder / fault).touch()
        while (faults_folder / fault).exists():
            time.sleep(0.05)
        loaded_job.wait_for_restart(since=restarts)
    assert f"injected: {fault} fails" in loaded_job.job.failure()


def test_output_equals_reference_after_all_faults(loaded_job: LoadedJob) -> None:
    loaded_job.check()
