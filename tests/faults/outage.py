"""A service that is away until an operator would know."""

from __future__ import annotations

import time

from stack.process import Service
from tests.faults.jobs.loaded_job import LoadedJob
from tests.faults.monitoring.alerts import Fires


def check_outage(loaded_job: LoadedJob, service: Service, fires: Fires, down_s: float) -> None:
    """Kills the only one of a service, under load. It is back after `down_s` and its alert."""
    with (
        loaded_job.load(),
        fires(loaded_job.job, "LiveprofileSourceDown") as wait_for_alert,
        loaded_job.recovery(f"{service.name} down until its alert fires"),
    ):
        service.kill()
        time.sleep(down_s)
        wait_for_alert()
        service.start()
    loaded_job.check()
