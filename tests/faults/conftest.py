from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.support.job_under_test import BUSY_JOB, JobUnderTest


@pytest.fixture(scope="session")
def new_job(new_job: Callable[..., JobUnderTest]) -> Callable[..., JobUnderTest]:
    return partial(new_job, job=BUSY_JOB)
