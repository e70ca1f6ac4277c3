"""One job for all faults, so that each starts where the last one left it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.faults.loaded_job import WINDOW, LoadedJob, open_loaded_job
from tests.support.job_under_test import JobUnderTest


@pytest.fixture(scope="package")
def shop(new_job: Callable[..., JobUnderTest]) -> Iterator[LoadedJob]:
    job = new_job("faults", window=WINDOW)
    job.submit()
    with open_loaded_job(job) as shop:
        yield shop
