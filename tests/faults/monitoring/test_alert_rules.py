"""Cassandra is suspended (SIGSTOP) while Prometheus scrapes `liveprofile serve metrics`.

Must hold: the alert of the fault fires within 60 s, with the intervals of the example configuration
in the exporter.
Recovery: automatic; the exporter reads Cassandra again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stack.local import Stack
from tests.support.api_server import api_server
from tests.support.job_under_test import JobUnderTest
from tests.support.paths import PROMETHEUS
from tests.support.prometheus import prometheus, until
from tests.support.summary import LINES

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not PROMETHEUS.is_file(), reason=f"{PROMETHEUS} is missing: `make test`"),
]

WITHIN_S = 60.0
FIRING = 'ALERTS{alertname="LiveprofileSourceDown",alertstate="firing",source="cassandra"}'
ANSWERS = 'liveprofile_source_up{source="cassandra"} == 1'


def test_suspended_cassandra_raises_its_alert_within_a_minute(
    new_job: Callable[..., JobUnderTest], stack: Stack, tmp_path: Path
) -> None:
    job = new_job("alert_rules")
    with (
        api_server(job.config_file, "metrics") as url,
        prometheus(tmp_path, url.split("/")[2]) as server,
    ):
        server.wait_for(ANSWERS)
        assert server.values("liveprofile_cassandra_nodes") == {("down",): 0.0, ("up",): 1.0}
        stack.cassandra.pause()
        suspended_s = time.monotonic()
        try:
            until(lambda: server.values(FIRING), WITHIN_S)
            LINES.append(
                "alert LiveprofileSourceDown: fires"
                f" {time.monotonic() - suspended_s:.1f} s after Cassandra is suspended"
            )
        finally:
            stack.cassandra.resume()
        server.wait_for(ANSWERS)
