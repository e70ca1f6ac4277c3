"""How many events a second the job takes, what each part of it costs, and on which process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import median
from typing import Any

from benchmarks.load.load import Load, hold_back
from benchmarks.support import runs
from benchmarks.support.job import VARIANTS
from benchmarks.support.journal import Entry
from benchmarks.support.meter import Meter, Usage
from liveprofile.config import Settings
from liveprofile.errors import ServiceError
from liveprofile.storage import connection, queries
from stack.local import Stack
from udfs.profile.batch import STAGES

# stack, variant, name, workload -> the figures of one measured run
Run = Callable[[Stack, str, str, Load], dict[str, Any]]

RUN_TIMEOUT_S = 600.0
REHEARSALS = 2


def throughput(stack: Stack, workload: Load, repetitions: int) -> dict[str, Any]:
    """Each variant `repetitions` times, in turn."""
    found = in_turn(stack, workload, repetitions, dict.fromkeys(VARIANTS, run))
    medians = {
        figure: {variant: median(one[figure] for one in found[variant]) for variant in VARIANTS}
        for figure in ("seconds", "events_per_s", "profiles_per_s", "cpu_us_per_event")
    }
    seconds, cpu = medians["seconds"], medians["cpu_us_per_event"]
    return {
        "whole_to_bare": round(seconds["whole"] / seconds["bare"], 2),
        "whole_to_bare_by_cpu": round(cpu["whole"] / cpu["bare"], 2),
        **medians,
        "runs": [one for variant in VARIANTS for one in found[variant]],
    }


def in_turn(
    stack: Stack, workload: Load, repetitions: int, variants: Mapping[str, Run]
) -> dict[str, list[dict[str, Any]]]:
    """What came of each variant's runs, after whole runs of the job that don't count."""
    found: dict[str, list[dict[str, Any]]] = {variant: [] for variant in variants}
    # The first runs pay for what the JVMs compile; Cassandra's isn't through after one.
    for number in range(1, REHEARSALS + 1):
        run(stack, "whole", f"rehearsal-{number}", workload)
    for repetition in range(1, repetitions + 1):
        for variant, measure in variants.items():
            found[variant].append(measure(stack, variant, f"{variant}-{repetition}", workload))
    return found


def run(stack: Stack, variant: str, name: str, workload: Load) -> dict[str, Any]:
    """One measured run of a warm job.

    The clock starts when the held-back events become visible to the job, all at once, and stops
    when the operator is through with the last profile: in `whole`, when Cassandra has it.
    """
    runs.say(f"{name}: preparing")
    with runs.job(stack, variant, name, workload) as job:
        reveal = hold_back(job.settings, workload)
        time.sleep(runs.SETTLE_S)
        profiles = workload.profiles(job.settings.window)
        earlier = job.journal.update()
        with Meter(stack) as meter:
            start_s = time.time()
            reveal()
            job.wait_for_rows(earlier + profiles, RUN_TIMEOUT_S)
        job.check()
        measured = [entry for entry in job.journal.entries if entry.at_s > start_s]
        seconds = max(entry.at_s for entry in measured) - start_s
        checkpoints = runs.checkpoints_ms(job, start_s)
        if variant == "whole":
            require_stored(job.settings, earlier + profiles)
    result = {
        "variant": variant,
        "events": workload.n,
        "users": workload.users,
        "profiles": profiles,
        "seconds": round(seconds, 2),
        "events_per_s": round(workload.n / seconds),
        "profiles_per_s": round(profiles / seconds),
        "us_per_event": round(seconds / workload.n * 1e6, 1),
        "batches": len(measured),
        "stage_us_per_profile": _stages(measured),
        "cpu_us_per_event": _cpu_us_per_event(meter.usage, workload.n),
        **meter.report(),
        "checkpoints_ms": checkpoints,
    }
    runs.say(
        f"{name}: {seconds:.1f} s, {result['events_per_s']} events/s,"
        f" {result['profiles_per_s']} profiles/s; CPU s {result['cpu_s']},"
        f" others {meter.others_cpu_s}; us a profile {result['stage_us_per_profile']}"
    )
    return result


def _cpu_us_per_event(usage: dict[str, Usage], events: int) -> float:
    """Of the stack, without the benchmark. Holds on a busy machine too, where rates do not."""
    spent_s = sum(used.cpu_s for process, used in usage.items() if process != "benchmark")
    return round(spent_s / events * 1e6, 1)


def _stages(entries: list[Entry]) -> dict[str, float]:
    """Of the worker's wall-clock time, by stage; empty for `bare`."""
    rows = sum(entry.rows for entry in entries)
    return {
        stage: round(sum(entry.stage_ms[stage] for entry in entries) / rows * 1000, 1)
        for stage in STAGES
        if stage in entries[0].stage_ms
    }


def require_stored(settings: Settings, profiles: int) -> None:
    """Raises ServiceError unless Cassandra holds so many deltas."""
    with connection.session_of(settings.cassandra) as session:
        stored = sum(1 for _ in queries.all_deltas(session))
    if stored != profiles:
        raise ServiceError(f"Cassandra holds {stored} deltas where the job stored {profiles}")


def users(stack: Stack, workload: Load, counts: list[int]) -> dict[str, Any]:
    """The whole job with the same number of events from ever more users."""
    found = [
        run(stack, "whole", f"users-{count}", replace(workload, users=count)) for count in counts
    ]
    return {
        "us_per_event": {str(one["users"]): one["us_per_event"] for one in found},
        "runs": found,
    }
