"""The only Kafka broker is down.

Load: steady; the producer buffers what it cannot send. Fault: kill -9, restart after 20 s and when
the alert fires. The Kafka sink fails too: rejected, late and alert records wait for the broker.
Must hold: no event is lost or used twice, every profile equals the reference's, and every alert is
sent.
Recovery: automatic once the broker is up.
"""

import time

import pytest

from stack.local import Stack
from tests.faults.jobs.loaded_job import LoadedJob
from tests.faults.monitoring.alerts import Fires

pytestmark = pytest.mark.faults

DOWN_S = 20


def test_job_recovers_when_broker_was_down(
    loaded_job: LoadedJob, stack: Stack, fires: Fires
) -> None:
    with (
        loaded_job.load(),
        fires(loaded_job.job, "LiveprofileSourceDown") as wait_for_alert,
        loaded_job.recovery("broker down until its alert fires"),
    ):
        stack.kafka.kill()
        time.sleep(DOWN_S)
        wait_for_alert()
        stack.kafka.start()
    loaded_job.check()
