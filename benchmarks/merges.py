"""Merges benchmark: throughput of the job with `merges.enabled` and without, in turn.

    python -m benchmarks.merges

Nobody is merged: each event pays for the look-up of its person. Prints one line of JSON.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer

from benchmarks.load.workload import Workload
from benchmarks.support import environment, runs
from benchmarks.support.command_line import (
    BENCH_ROOT,
    EVENTS,
    REPETITIONS,
    USERS,
    Events,
    Repetitions,
    Root,
    Users,
)
from benchmarks.throughput import RunVariant, measure_run, run_variants
from stack.local import Stack


def merges(stack: Stack, workload: Workload, variant: str, repetitions: int) -> dict[str, Any]:
    """Returns the ratios of each pair of runs, and all runs."""

    def case(enabled: bool) -> RunVariant:
        overrides = {"merges": {"enabled": enabled}}
        return lambda stack, _, name, workload: measure_run(
            stack, variant, name, workload, overrides
        )

    results = run_variants(stack, workload, repetitions, {"off": case(False), "on": case(True)})
    pairs = list(zip(results["off"], results["on"], strict=True))
    ratios = {
        f"{figure}_on_to_off": [round(on[figure] / off[figure], 2) for off, on in pairs]
        for figure in ("seconds", "cpu_us_per_event")
    }
    return ratios | {"runs": results}


def main(
    root: Root = BENCH_ROOT,
    events: Events = EVENTS,
    users: Users = USERS,
    repetitions: Repetitions = REPETITIONS,
    variant: Annotated[
        Literal["whole", "both-pipelines"], typer.Option(help="Variant of `benchmarks throughput`.")
    ] = "whole",
) -> None:
    """Compare the job with merges.enabled with the job without."""
    fields = environment.describe()
    with runs.started_stack(root, "periodic") as stack:
        result = merges(stack, Workload.of(events, users), variant, repetitions)
    typer.echo(json.dumps({"benchmark": "merges", **fields, **result}))


if __name__ == "__main__":
    typer.run(main)
