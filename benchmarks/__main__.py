"""python -m benchmarks: runs the benchmarks of docs/benchmarks.md; prints one line of JSON."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import throughput as throughput_benchmark
from benchmarks.load.workload import Workload
from benchmarks.serve import serve
from benchmarks.support import runs
from benchmarks.support.command_line import (
    BACKGROUND_PER_S,
    BENCH_ROOT,
    EVENTS,
    LATENCY_LOAD_SHARE,
    REPETITIONS,
    SAMPLES,
    USERS,
    CommitLog,
    Events,
    Repetitions,
    Root,
    Samples,
    Users,
    report,
    report_on_stack,
)
from cli.options import Commands
from liveprofile.errors import LiveprofileError
from stack.local import Stack

app = Commands(add_completion=False, pretty_exceptions_enable=False, invoke_without_command=True)
app.command()(serve)


@app.callback(invoke_without_command=True)
def default_benchmarks(context: typer.Context, commit_log: CommitLog = "periodic") -> None:
    """Measure throughput, then latency at 70 % of it. Each subcommand runs one benchmark."""
    if context.invoked_subcommand:
        return
    from benchmarks.latency import latency

    workload = Workload.of(EVENTS, USERS)

    def measure(stack: Stack) -> dict[str, Any]:
        result = throughput_benchmark.throughput(stack, workload, REPETITIONS)
        rate = LATENCY_LOAD_SHARE * result["events_per_s"]["whole"]
        return {"throughput": result, "latency": latency(stack, workload, rate, SAMPLES)}

    report_on_stack("all", measure, workload, commit_log=commit_log)


@app.command()
def throughput(
    root: Root = BENCH_ROOT,
    events: Events = EVENTS,
    users: Users = USERS,
    repetitions: Repetitions = REPETITIONS,
    commit_log: CommitLog = "periodic",
) -> None:
    """Measure events per second of the job's variants (benchmarks/support/job.py)."""
    workload = Workload.of(events, users)

    def measure(stack: Stack) -> dict[str, Any]:
        return throughput_benchmark.throughput(stack, workload, repetitions)

    report_on_stack("throughput", measure, workload, root=root, commit_log=commit_log)


@app.command()
def bytewax(
    root: Root = BENCH_ROOT,
    events: Events = EVENTS,
    users: Users = USERS,
    repetitions: Repetitions = REPETITIONS,
) -> None:
    """Compare the profile pipeline with the same work in Bytewax, which must be installed."""
    from benchmarks.against_bytewax import against_bytewax, require_bytewax

    require_bytewax()
    workload = Workload.of(events, users)
    report_on_stack(
        "bytewax", lambda stack: against_bytewax(stack, workload, repetitions), workload, root=root
    )


@app.command()
def latency(
    root: Root = BENCH_ROOT,
    events: Events = EVENTS,
    users: Users = USERS,
    rate: float | None = None,
    samples: Samples = SAMPLES,
    commit_log: CommitLog = "periodic",
) -> None:
    """Measure the time from the event that closes a window until its profiles can be read.

    Options:
    rate: Events per second. Default: 70 % of the throughput of a run before.
    """
    from benchmarks.latency import latency

    workload = Workload.of(events, users)

    def measure(stack: Stack) -> dict[str, Any]:
        if rate is not None:
            return latency(stack, workload, rate, samples)
        fastest = throughput_benchmark.measure_run(stack, "whole", "fastest", workload)
        fastest_per_s = fastest["events_per_s"]
        result = latency(stack, workload, LATENCY_LOAD_SHARE * fastest_per_s, samples)
        return {"share": LATENCY_LOAD_SHARE, "fastest_events_per_s": fastest_per_s, **result}

    report_on_stack("latency", measure, workload, root=root, commit_log=commit_log)


@app.command()
def alerts(
    root: Root = BENCH_ROOT,
    rates: str = "100,1000",
    background: float = BACKGROUND_PER_S,
    warm_up: float = 180,
    seconds: Annotated[float, typer.Option(min=10)] = 60,
    parallelism: Annotated[int, typer.Option(min=1)] = runs.PARALLELISM,
    changelog: bool = False,
    stagger_ms: Annotated[int, typer.Option(min=0)] = 0,
    commit_log: CommitLog = "periodic",
) -> None:
    """Measure the time from an event until a consumer has its alert, whose flag is then stored.

    Options:
    rates: Scored events per second, separated by commas.
    background: Events per second for the profile pipeline.
    warm_up: Unmeasured seconds per rate.
    seconds: Measured seconds per rate.
    parallelism: Parallelism of the job.
    changelog: Setting job.changelog.
    stagger_ms: Setting window.stagger_ms.
    """
    from benchmarks.alerts import alerts

    workload = Workload.of(round(background * (warm_up + seconds)), USERS)
    settings = {"job": {"changelog": changelog}, "window": {"stagger_ms": stagger_ms}}

    def measure(stack: Stack) -> dict[str, Any]:
        per_s = [float(rate) for rate in rates.split(",")]
        return {
            "runs": [
                alerts(stack, workload, background, rate, warm_up, seconds, settings)
                for rate in per_s
            ]
        }

    report_on_stack(
        "alerts", measure, workload, root=root, commit_log=commit_log, parallelism=parallelism
    )


@app.command()
def operator(
    root: Root = BENCH_ROOT,
    events: Events = 100_000,
    users: Users = USERS,
    batch_rows: Annotated[int, typer.Option(min=1)] = 500,
    store: list[str] = ["none"],  # noqa: B006
) -> None:
    """Measure the operator alone, without Flink: us per profile by stage.

    Options:
    batch_rows: Maximum rows per batch.
    store: none or cassandra; repeatable.
    """
    from benchmarks.operator import operator

    workload = Workload.of(events, users)
    report("operator", workload, lambda: operator(root, workload, batch_rows, store))


@app.command()
def gpu(
    checkpoint: Path = Path("models/checkpoints/default"),
    events: Events = 50_000,
    users: Users = 5_000,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Measure the user model on a GPU: ms per batch.

    Options:
    checkpoint: Model checkpoint folder.
    repeats: Rounds of timing.
    """
    from benchmarks.gpu import measure_gpu

    workload = Workload.of(events, users)
    report("gpu", workload, lambda: measure_gpu(checkpoint, workload, repeats))


def run(commands: Commands) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # SystemExit runs the clean-up
    try:
        commands()
    except LiveprofileError as error:
        sys.stderr.write(f"benchmarks: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    run(app)
