"""Checks that a fault raises its alert, by a Prometheus that scrapes
`liveprofile serve metrics`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.support import summary
from tests.support.api_server import api_server
from tests.support.job_under_test import JobUnderTest
from tests.support.prometheus import prometheus, until

TIMEOUT_S = 180.0

# The fixture `fires`: of this job this alert fires. The block gets a function that waits for it.
Fires = Callable[[JobUnderTest, str], AbstractContextManager[Callable[[], object]]]


@contextmanager
def fires(folder: Path, job: JobUnderTest, alert: str) -> Iterator[Callable[[], object]]:
    """Raises AssertionError unless the alert fires. The block begins with the fault.

    The summary says how long after the fault the alert fires. Each call starts a Prometheus, which
    has no memory of earlier faults. folder: for its data.
    """
    firing = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
    with (
        api_server(job.config_file, "metrics") as url,
        prometheus(folder, url.split("/")[2]) as server,
    ):
        # An increase needs a sample before it.
        until(lambda: server.values("count_over_time(liveprofile_job_running[1m]) > 1"), TIMEOUT_S)
        assert not server.values(firing), f"{alert} fires before the fault"
        fault_s = time.time()

        def wait() -> float:
            return until(lambda: server.first_time_s(firing, fault_s), TIMEOUT_S)

        yield wait
        summary.LINES.append(f"alert {alert}: fires {wait() - fault_s:.0f} s after the fault")
