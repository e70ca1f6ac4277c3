"""The only Cassandra node is down, or slow.

Load: steady, an hour of events a minute, so that drift of each hour is decided meanwhile. Faults:
kill -9 and restart after 30 s and when the alert fires; paused for half a second in every second.
Must hold: no write is lost or acknowledged too early, every profile equals the reference's.
Recovery: automatic. A slow node causes no restart; test_paused_services.py pauses it for longer.
"""

import time

import pytest

from stack.local import Stack
from tests.faults.jobs.loaded_job import LoadedJob
from tests.faults.monitoring.alerts import Fires
from tests.faults.outage import check_outage

pytestmark = pytest.mark.faults

DOWN_S = 30
SLOW_S, PAUSE_S = 10, 0.5


def test_job_recovers_when_cassandra_was_down(
    loaded_job: LoadedJob, stack: Stack, fires: Fires
) -> None:
    check_outage(loaded_job, stack.cassandra, fires, DOWN_S)


def test_slow_cassandra_causes_no_restart(loaded_job: LoadedJob, stack: Stack) -> None:
    restarts = loaded_job.job.restarts()
    with loaded_job.load(), loaded_job.recovery("Cassandra slow for 10 s"):
        try:
            for _ in range(round(SLOW_S / PAUSE_S / 2)):
                stack.cassandra.pause()
                time.sleep(PAUSE_S)
                stack.cassandra.resume()
                time.sleep(PAUSE_S)
        finally:
            stack.cassandra.resume()
    loaded_job.check()
    assert loaded_job.job.restarts() == restarts
