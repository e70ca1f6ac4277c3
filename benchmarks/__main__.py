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
from benchmarks.storage.command import storage
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
from liveprofile.errors import LiveprofileError
from stack.local import Stack

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(serve)
app.command()(storage)


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

    report_on_stack("all", BENCH_ROOT, commit_log, workload, measure)


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
    report_on_stack(
        "throughput",
        root,
        commit_log,
        workload,
        lambda stack: throughput_benchmark.throughput(stack, workload, repetitions),
    )


@app.command()
def bytewax(
    root: Root = BENCH_ROOT,
    events: Events = EVENTS,
    users: Users = USERS,
    repetitions: Repetitions = REPETITIONS,
    commit_log: CommitLog = "periodic",
) -> None:
    """Compare the profile pipeline with the same work in Bytewax, which must be installed."""
    from benchmarks.against_bytewax import against_bytewax, require_bytewax

    require_bytewax()
    workload = Workload.of(events, users)
    report_on_stack(
        "bytewax",
        root,
        commit_log,
        workload,
        lambda stack: against_bytewax(stack, workload, repetitions),
    )


@app.command()
def users(
    root: Root = BENCH_ROOT,
    events: Events = EVENTS,
    counts: Annotated[
        str, typer.Option(help="Numbers of users, separated by commas.")
    ] = "2000,20000,200000",
    commit_log: CommitLog = "periodic",
) -> None:
    """Measure the time per event for different numbers of users."""
    workload = Workload.of(events, USERS)
    numbers = [int(count) for count in counts.split(",")]
    report_on_stack(
        "users",
        root,
        commit_log,
        workload,
        lambda stack: throughput_benchmark.users(stack, workload, numbers),
    )


@app.command()
def latency(
    root: Root = BENCH_ROOT,
    events: Events = EVENTS,
    users: Users = USERS,
    rate: Annotated[
        float | None,
        typer.Option(help="Events per second. Default: 70 % of the throughput of a run before."),
    ] = None,
    samples: Samples = SAMPLES,
    commit_log: CommitLog = "periodic",
) -> None:
    """Measure the time from the event that closes a window until its profiles can be read."""
    from benchmarks.latency import latency

    workload = Workload.of(events, users)

    def measure(stack: Stack) -> dict[str, Any]:
        if rate is not None:
            return latency(stack, workload, rate, samples)
        fastest = throughput_benchmark.measure_run(stack, "whole", "fastest", workload)
        fastest_per_s = fastest["events_per_s"]
        result = latency(stack, workload, LATENCY_LOAD_SHARE * fastest_per_s, samples)
        return {"share": LATENCY_LOAD_SHARE, "fastest_events_per_s": fastest_per_s, **result}

    report_on_stack("latency", root, commit_log, workload, measure)


@app.command("model-swap")
def model_swap(
    root: Root = BENCH_ROOT,
    events: Events = EVENTS,
    users: Users = USERS,
    rate: Annotated[float, typer.Option(help="Events per second.")] = BACKGROUND_PER_S,
    every: Annotated[
        float, typer.Option(min=1, help="Seconds between two changes of the model.")
    ] = 5.0,
    samples: Samples = SAMPLES,
    commit_log: CommitLog = "periodic",
) -> None:
    """Compare the profile latency while the user model changes with the time before."""
    from benchmarks.model_swap import model_swap

    workload = Workload.of(events, users)
    report_on_stack(
        "model-swap",
        root,
        commit_log,
        workload,
        lambda stack: model_swap(stack, workload, rate, samples, every),
    )


@app.command()
def alerts(
    root: Root = BENCH_ROOT,
    rates: Annotated[
        str, typer.Option(help="Scored events per second, separated by commas.")
    ] = "100,1000",
    background: Annotated[
        float, typer.Option(help="Events per second for the profile pipeline.")
    ] = BACKGROUND_PER_S,
    warm_up: Annotated[float, typer.Option(help="Unmeasured seconds per rate.")] = 180,
    seconds: Annotated[float, typer.Option(min=10, help="Measured seconds per rate.")] = 60,
    parallelism: Annotated[
        int, typer.Option(min=1, help="Parallelism of the job.")
    ] = runs.PARALLELISM,
    changelog: Annotated[bool, typer.Option(help="Setting job.changelog.")] = False,
    stagger_ms: Annotated[int, typer.Option(min=0, help="Setting window.stagger_ms.")] = 0,
    commit_log: CommitLog = "periodic",
) -> None:
    """Measure the time from an event until a consumer has its alert, whose flag is then stored."""
    from benchmarks.alerts import alerts

    workload = Workload.of(round(background * (warm_up + seconds)), USERS)
    report_on_stack(
        "alerts",
        root,
        commit_log,
        workload,
        lambda stack: {
            "runs": [
                alerts(
                    stack,
                    workload,
                    background,
                    float(rate),
                    warm_up,
                    seconds,
                    changelog,
                    stagger_ms,
                )
                for rate in rates.split(",")
            ]
        },
        parallelism,
    )


@app.command("hot-keys")
def hot_keys(
    root: Root = BENCH_ROOT,
    events: Annotated[int, typer.Option(min=1_000, help="Scored events per run.")] = 20_000,
    repetitions: Annotated[int, typer.Option(min=1, help="Measured runs per case.")] = 2,
    rate: Annotated[float, typer.Option(help="Scored events per second for the latency.")] = 200,
    seconds: Annotated[
        float, typer.Option(min=0, help="Measured seconds of latency per case; 0: none.")
    ] = 30,
    bare: Annotated[
        bool, typer.Option(help="The lists alone: without Python, writes and latency.")
    ] = False,
    parallelism: Annotated[
        int, typer.Option(min=1, help="Parallelism of the job.")
    ] = runs.PARALLELISM,
    commit_log: CommitLog = "periodic",
) -> None:
    """Compare scoring with even load and with half of the events on one shop or one user."""
    from benchmarks.hot_keys import hot_keys

    variant = "scoring-bare" if bare else "scoring"
    report_on_stack(
        "hot-keys",
        root,
        commit_log,
        None,
        lambda stack: hot_keys(stack, variant, events, repetitions, rate, 0 if bare else seconds),
        parallelism,
    )


@app.command()
def operator(
    root: Root = BENCH_ROOT,
    events: Events = 100_000,
    users: Users = USERS,
    batch_rows: Annotated[int, typer.Option(min=1, help="Maximum rows per batch.")] = 500,
    store: Annotated[list[str], typer.Option(help="none or cassandra; repeatable.")] = ["none"],  # noqa: B006
) -> None:
    """Measure the operator alone, without Flink: us per profile by stage."""
    from benchmarks.models.operator import operator

    workload = Workload.of(events, users)
    report("operator", workload, lambda: operator(root, workload, batch_rows, store))


@app.command()
def gpu(
    checkpoint: Annotated[Path, typer.Option(help="Model checkpoint folder.")] = Path(
        "models/checkpoints/default"
    ),
    events: Events = 50_000,
    users: Users = 5_000,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of timing.")] = 5,
) -> None:
    """Measure the user model on a GPU: ms per batch."""
    from benchmarks.models.gpu import measure_gpu

    workload = Workload.of(events, users)
    report("gpu", workload, lambda: measure_gpu(checkpoint, workload, repeats))


@app.command()
def restarts(
    root: Root = BENCH_ROOT,
    count: Annotated[int, typer.Option(min=1, help="Number of restarts.")] = 100,
    resubmit_every: Annotated[
        int,
        typer.Option(
            min=0, help="Every N-th restart cancels and submits the job instead; 0: never."
        ),
    ] = 5,
    commit_log: CommitLog = "periodic",
) -> None:
    """Measure whether the TaskManager's memory grows with the restarts of a job."""
    from benchmarks.restarts import restarts

    window = Workload(n=200, users=100, hours=1 / 12)
    report_on_stack(
        "restarts",
        root,
        commit_log,
        window,
        lambda stack: restarts(stack, window, count, resubmit_every),
    )


@app.command()
def segments(
    root: Root = BENCH_ROOT, users: Users = 50_000, commit_log: CommitLog = "periodic"
) -> None:
    """Measure how fast a sweep applies segments to all users while the job runs."""
    from benchmarks.segments import segments

    report_on_stack("segments", root, commit_log, None, lambda stack: segments(stack, users))


@app.command("training-rows")
def training_rows(
    root: Root = BENCH_ROOT,
    windows: Annotated[
        str, typer.Option(help="Numbers of training rows (windows), separated by commas.")
    ] = "20000,200000",
) -> None:
    """Measure whether the memory of a training grows with the number of its rows."""
    from benchmarks.models.training_rows import training_rows, workload_of_windows

    sizes = [int(size) for size in windows.split(",")]
    report(
        "training-rows",
        workload_of_windows(sizes[0]),
        lambda: {"sizes": training_rows(root, sizes)},
    )


@app.command()
def audit(
    records: Annotated[str, typer.Option(help="Numbers, with commas.")] = "2000000,20000000",
) -> None:
    """Measure whether the memory of an audit grows with the number of records."""
    from benchmarks.audit import audit

    report("audit", None, lambda: {"sizes": audit([int(size) for size in records.split(",")])})


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # SystemExit runs the clean-up
    try:
        app()
    except LiveprofileError as error:
        sys.stderr.write(f"benchmarks: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
