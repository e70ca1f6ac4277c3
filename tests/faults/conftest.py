"""One job for all faults, so that each starts where the last one left it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.faults.shop import RECOVERIES, WINDOW, Shop
from tests.live import Job


@pytest.fixture(scope="package")
def shop(new_job: Callable[..., Job]) -> Iterator[Shop]:
    job = new_job("faults", window=WINDOW)
    job.submit()
    yield Shop(job)
    job.cancel()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for fault, seconds, repaired_after_s in RECOVERIES:
        terminalreporter.write_line(
            f"recovered in {seconds:.0f} s: {fault} (repaired after {repaired_after_s:.0f} s)"
        )
