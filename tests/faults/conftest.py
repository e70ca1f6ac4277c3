"""One job for all faults, so that each starts where the last one left it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.faults.shop import WINDOW, Shop, opened
from tests.support.live_job import Job


@pytest.fixture(scope="package")
def shop(new_job: Callable[..., Job]) -> Iterator[Shop]:
    job = new_job("faults", window=WINDOW)
    job.submit()
    with opened(job) as shop:
        yield shop
