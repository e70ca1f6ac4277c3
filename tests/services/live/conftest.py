"""One job for all tests of this folder, whose files run by name: event time only goes forward.

test_members uses November 2023 to January 2024, test_own_data May 2026, test_scoring the present.
One partition and one task, so that the order of an entity's events is fixed.
"""

from collections.abc import Callable, Iterator

import pytest
from cassandra.cluster import Session

from liveprofile.storage.connection import open_session
from tests.support.job_under_test import JobUnderTest

# Short: heartbeats of the present time close the last windows.
WINDOW = {"length_ms": 6_000, "stagger_ms": 1_000, "out_of_orderness_ms": 1_000}


@pytest.fixture(scope="package")
def job(new_job: Callable[..., JobUnderTest]) -> Iterator[JobUnderTest]:
    job = new_job("live", topics={"partitions": 1}, window=WINDOW)
    job.submit()
    yield job
    job.cancel()


@pytest.fixture(scope="package")
def session(job: JobUnderTest) -> Iterator[Session]:
    with open_session(job.settings.cassandra) as session:
        yield session
