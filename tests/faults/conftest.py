from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.faults.alerts import Fires, fires
from tests.support.job_under_test import BUSY_JOB, JobUnderTest


@pytest.fixture(scope="session")
def new_job(new_job: Callable[..., JobUnderTest]) -> Callable[..., JobUnderTest]:
    return partial(new_job, job=BUSY_JOB)


@pytest.fixture(name="fires")
def fires_(tmp_path: Path) -> Fires:
    """Checks that a fault raises its alert."""
    return partial(fires, tmp_path)
