"""The only Kafka broker is down.

Load: steady; the producer buffers what it cannot send. Fault: kill -9, restart after 20 s and when
the alert fires. The Kafka sink fails too: rejected, late and alert records wait for the broker.
Must hold: no event is lost or used twice, every profile equals the reference's, and every alert is
sent.
Recovery: automatic once the broker is up.
"""

import pytest

from stack.local import Stack
from tests.faults.jobs.loaded_job import LoadedJob
from tests.faults.monitoring.alerts import Fires
from tests.faults.outage import check_outage

pytestmark = pytest.mark.faults

DOWN_S = 20


def test_job_recovers_when_broker_was_down(
    loaded_job: LoadedJob, stack: Stack, fires: Fires
) -> None:
    check_outage(loaded_job, stack.kafka, fires, DOWN_S)
