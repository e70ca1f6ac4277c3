"""One job for all tests of this folder, whose files run by name: event time only goes forward.

test_members uses November 2023 to January 2024, test_own_data May 2026, the others the present.
One partition and one task, so that the order of an entity's events is fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from cassandra.cluster import Session

from liveprofile.ingest.translation import parse_time_ms
from liveprofile.storage.connection import open_session
from tests.support.job_under_test import JobUnderTest

# Short: heartbeats of the present time close the last windows.
WINDOW = {"length_ms": 6_000, "stagger_ms": 1_000, "out_of_orderness_ms": 1_000}


class LiveJob(NamedTuple):
    job: JobUnderTest
    merged_since_ms: int  # when the merge of `alias` into `person` counts


@pytest.fixture(scope="package")
def live_job(new_job: Callable[..., JobUnderTest]) -> Iterator[LiveJob]:
    """Its workers find a merge when they start."""
    merges = {"enabled": True, "delay_ms": 0}
    job = new_job("live", topics={"partitions": 1}, window=WINDOW, merges=merges)
    sent = job.run("identity", "merge", "alias", "person")
    job.submit()
    yield LiveJob(job, parse_time_ms(sent["since"]) or 0)
    job.cancel()


@pytest.fixture(scope="package")
def job(live_job: LiveJob) -> JobUnderTest:
    return live_job.job


@pytest.fixture(scope="package")
def session(job: JobUnderTest) -> Iterator[Session]:
    with open_session(job.settings.cassandra) as session:
        yield session
