"""Checks that a fault raises its alert, by a Prometheus that scrapes the exporter of a job."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import summary
from tests.support.prometheus import prometheus
from tests.support.waiting import until

TIMEOUT_S = 180.0


@contextmanager
def fires(alert: str, exporter: str, folder: Path) -> Iterator[Callable[[], float]]:
    """Raises AssertionError unless the alert fires. The block begins with the fault.

    It gets a function that waits for the alert. The summary says how long after the fault it fires.
    Each call starts a Prometheus, which has no memory of earlier faults. exporter: its URL. folder:
    for Prometheus.
    """
    firing = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
    with prometheus(folder, exporter.split("/")[2]) as server:
        # An increase needs a sample before it.
        until(lambda: server.values("count_over_time(liveprofile_job_running[1m]) > 1"), TIMEOUT_S)
        assert not server.values(firing), f"{alert} fires before the fault"
        fault_s = time.time()

        def wait() -> float:
            return until(lambda: server.first_time_s(firing, fault_s), TIMEOUT_S)

        yield wait
        summary.LINES.append(f"alert {alert}: fires {wait() - fault_s:.0f} s after the fault")
