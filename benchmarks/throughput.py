"""Throughput benchmark: events per second of the job and CPU time per process, by variant."""

import time
from statistics import median
from typing import Any

from benchmarks.load.workload import Workload, send_hidden
from benchmarks.support import runs
from benchmarks.support.meter import Meter
from benchmarks.support.report import (
    EVENTS,
    REPETITIONS,
    USERS,
    Events,
    Repetitions,
    Users,
    report_on_stack,
)
from liveprofile.errors import ServiceError
from liveprofile.settings import Settings
from liveprofile.storage import connection, queries
from stack.local import Stack

RUN_TIMEOUT_S = 600.0
REHEARSALS = 2


def throughput(
    events: Events = EVENTS, users: Users = USERS, repetitions: Repetitions = REPETITIONS
) -> None:
    """Measure events per second of both pipelines and of the profile pipeline alone."""
    workload = Workload.of(events, users)

    def measure(stack: Stack) -> dict[str, Any]:
        # The JVMs compile during the first runs; Cassandra's needs more than one run.
        for number in range(1, REHEARSALS + 1):
            measure_run(stack, "whole", f"rehearsal-{number}", workload)
        results: dict[str, list[dict[str, Any]]] = {variant: [] for variant in runs.VARIANTS}
        for repetition in range(1, repetitions + 1):
            for variant, of_variant in results.items():  # alternately
                name = f"{variant}-{repetition}"
                of_variant.append(measure_run(stack, variant, name, workload))
        figures = ("seconds", "events_per_s", "profiles_per_s", "cpu_us_per_event")
        medians = {
            figure: {name: median(run[figure] for run in each) for name, each in results.items()}
            for figure in figures
        }
        return medians | {
            "runs": [run for variant_runs in results.values() for run in variant_runs]
        }

    report_on_stack("throughput", workload, measure)


def measure_run(stack: Stack, variant: str, name: str, workload: Workload) -> dict[str, Any]:
    """Measures one run of a warm job.

    The clock starts when the events become visible to the job, all at once. It stops when the
    operator has processed the last profile, which Cassandra has then stored.
    """
    runs.log_progress(f"{name}: preparing")
    with runs.running_job(stack, variant, name, workload) as job:
        make_visible = send_hidden(job.settings, workload)
        time.sleep(runs.SETTLE_S)
        profiles = workload.profiles(job.settings.window)
        earlier = job.journal.update()
        with Meter(stack) as meter:
            start_s = time.time()
            make_visible()
            job.wait_for_rows(earlier + profiles, RUN_TIMEOUT_S)
        job.check()
        seconds = job.journal.last_s - start_s
        if variant == "whole":
            require_stored(job.settings, earlier + profiles)
    # Unlike rates, CPU time hardly depends on other load of the machine.
    cpu_s = sum(used.cpu_s for process, used in meter.usage.items() if process != "benchmark")
    return run_result(variant, name, workload, profiles, seconds) | {
        "cpu_us_per_event": round(cpu_s / workload.n * 1e6, 1),
        **meter.report(),
    }


def run_result(
    variant: str, name: str, workload: Workload, profiles: int, seconds: float
) -> dict[str, Any]:
    runs.log_progress(f"{name}: {seconds:.1f} s, {workload.n / seconds:.0f} events/s")
    return {
        "variant": variant,
        "profiles": profiles,
        "seconds": round(seconds, 2),
        "events_per_s": round(workload.n / seconds),
        "profiles_per_s": round(profiles / seconds),
    }


def require_stored(settings: Settings, profiles: int) -> None:
    """Raises ServiceError unless Cassandra holds `profiles` deltas."""
    with connection.open_session(settings.cassandra) as session:
        stored = sum(1 for _ in queries.scan_digests(session))
    if stored != profiles:
        raise ServiceError(f"Cassandra holds {stored} deltas where the job stored {profiles}")
