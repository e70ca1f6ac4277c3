"""An operator fails once: right behind the source, the model call, the write to Cassandra.

Load: steady. Fault: an exception in the Python worker (tests/faults/failing_job.py).
Holds: the job fails visibly instead of losing the rows; no event is lost or used twice, every
profile is the reference's. (The Kafka sink fails in test_broker.py.)
Recovers: by itself, from the last checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from liveprofile.flink.rest import wait_until_running
from tests.faults.loaded_job import WINDOW, LoadedJob, open_loaded_job
from tests.support.job_under_test import JobUnderTest

pytestmark = pytest.mark.faults

JOB = Path(__file__).with_name("failing_job.py")


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("armed")


@pytest.fixture(scope="module")
def shop(new_job: Callable[..., JobUnderTest], faults: Path) -> Iterator[LoadedJob]:
    job = new_job("operators", window=WINDOW)
    arguments = ("--config", str(job.config_file), "--faults", str(faults))
    job.id = job.stack.submit(JOB, *arguments)
    wait_until_running(job.rest_url, job.id, timeout_s=180)
    with open_loaded_job(job, lane=False) as shop:
        yield shop


@pytest.mark.parametrize("fault", ["source", "model", "write"])
def test_an_operator_that_fails(fault: str, shop: LoadedJob, faults: Path) -> None:
    restarts = shop.job.restarts()
    with shop.open(), shop.recovery(f"{fault} fails"):
        (faults / fault).touch()
        while (faults / fault).exists():
            time.sleep(0.05)
        shop.wait_for_restart(since=restarts)
    assert f"injected: {fault} fails" in shop.job.failure()


def test_nothing_is_lost(shop: LoadedJob) -> None:
    shop.check()
