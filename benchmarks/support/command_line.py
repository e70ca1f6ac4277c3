"""What the commands of `python -m benchmarks` share: options, and the JSON line of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from benchmarks.load.workload import Workload
from benchmarks.support import environment, runs
from liveprofile.resources import STACK_FOLDER
from stack.local import Stack

EVENTS, USERS, REPETITIONS, SAMPLES = 400_000, 20_000, 2, 1_000
LATENCY_LOAD_SHARE = 0.7  # latency is measured at this share of the throughput
BACKGROUND_PER_S = 4_700.0  # events per second: half of the throughput on two cores
BENCH_ROOT = STACK_FOLDER / "bench"

Root = Annotated[
    Path, typer.Option(help="Folder for the benchmark's own stack; removed at the end.")
]
Events = Annotated[int, typer.Option(min=1_000, help="Number of generated events per run.")]
Users = Annotated[int, typer.Option(min=1, help="Number of users.")]
Repetitions = Annotated[
    int, typer.Option(min=1, help="Measured runs per variant; the variants alternate.")
]
CommitLog = Annotated[
    Literal["periodic", "batch"],
    typer.Option(
        help="Cassandra's commitlog_sync: periodic (its default), or batch, which a single node"
        " needs to lose no acknowledged write."
    ),
]
Samples = Annotated[int, typer.Option(min=10, help="Number of profiles to measure latency on.")]


def report(name: str, workload: Workload | None, measure: Callable[[], dict[str, Any]]) -> None:
    """Runs a benchmark and prints its JSON line: environment, workload and results."""
    head = {"benchmark": name, **environment.describe(), "load": workload and asdict(workload)}
    typer.echo(json.dumps(head | measure()))


def report_on_stack(
    name: str,
    measure: Callable[[Stack], dict[str, Any]],
    workload: Workload | None = None,
    *,
    root: Path = BENCH_ROOT,
    commit_log: str = "periodic",
    parallelism: int = runs.PARALLELISM,
) -> None:
    """Runs a benchmark that needs Kafka, Cassandra and Flink, on a stack of its own."""

    def with_stack() -> dict[str, Any]:
        with runs.started_stack(root, commit_log, parallelism) as stack:
            configuration = {"commit_log": commit_log, **runs.configuration(stack)}
            return {"configuration": configuration, **measure(stack)}

    report(name, workload, with_stack)
