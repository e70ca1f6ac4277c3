"""One job for all faults: each test continues with the state that the last one left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.faults.jobs.loaded_job import WINDOW, LoadedJob, open_loaded_job
from tests.faults.monitoring.alerts import Fires, fires
from tests.support.job_under_test import BUSY_JOB, JobUnderTest


@pytest.fixture(scope="session")
def new_job(new_job: Callable[..., JobUnderTest]) -> Callable[..., JobUnderTest]:
    return partial(new_job, job=BUSY_JOB)


@pytest.fixture(scope="package")
def loaded_job(new_job: Callable[..., JobUnderTest]) -> Iterator[LoadedJob]:
    job = new_job("faults", window=WINDOW)
    job.submit()
    with open_loaded_job(job) as loaded_job:
        yield loaded_job


@pytest.fixture(name="fires")
def fires_(tmp_path: Path) -> Fires:
    """Checks that a fault raises its alert."""
    return partial(fires, tmp_path)
