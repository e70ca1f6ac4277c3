"""The API on a keyspace and topics of its own, for all tests of the folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from liveprofile.storage.connection import open_session
from tests.services.serve.api import SERVE, Api, fill
from tests.support.api_server import api_server, wait_until_ready
from tests.support.job_under_test import JobUnderTest


@pytest.fixture(scope="package")
def api(new_job: Callable[..., JobUnderTest]) -> Iterator[Api]:
    """The API on a keyspace and topics of its own, with rows in every table that it reads."""
    job = new_job("api", serve=SERVE)
    with open_session(job.settings.cassandra) as session:
        fill(job.settings, session)
        with api_server(job.config_file) as url:
            wait_until_ready(url)
            yield Api(job, session, url)
