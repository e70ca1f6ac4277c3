"""python -m benchmarks: the benchmarks of docs/benchmarks.md; one line of JSON at the end."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from benchmarks import throughput as throughput_
from benchmarks.load.load import Load
from benchmarks.support import environment, runs
from liveprofile.errors import LiveprofileError
from liveprofile.resources import STACK_FOLDER
from stack.local import Stack

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

EVENTS, USERS, REPETITIONS, SAMPLES = 400_000, 20_000, 2, 1_000
SHARE = 0.7  # of the throughput, for latency
BACKGROUND = 4_700.0  # events a second: half of the throughput on two cores

Root = Annotated[Path, typer.Option(help="Folder of the benchmark's own stack; it is removed.")]
Events = Annotated[int, typer.Option(min=1_000, help="Generated events of a run.")]
Users = Annotated[int, typer.Option(min=1)]
Repetitions = Annotated[int, typer.Option(min=1, help="Of each variant, in turn.")]
CommitLog = Annotated[
    Literal["periodic", "batch"],
    typer.Option(help="Cassandra's: periodic as it comes, or batch as a node alone needs it."),
]
Samples = Annotated[int, typer.Option(min=10, help="Profiles whose latency is measured.")]

BENCH_ROOT = STACK_FOLDER / "bench"


def report(name: str, workload: Load | None, measure: Callable[[], dict[str, Any]]) -> None:
    """Runs a benchmark and prints its line, with all that must stand beside a figure."""
    about = environment.describe()
    found = measure()
    typer.echo(
        json.dumps({"benchmark": name, **about, "load": workload and asdict(workload), **found})
    )


def report_on_stack(
    name: str,
    root: Path,
    commit_log: str,
    workload: Load | None,
    measure: Callable[[Stack], dict[str, Any]],
    parallelism: int = runs.PARALLELISM,
) -> None:
    def with_stack() -> dict[str, Any]:
        with runs.started(root, commit_log, parallelism) as stack:
            about = {"commit_log": commit_log, **runs.configuration(stack)}
            return {"configuration": about, **measure(stack)}

    report(name, workload, with_stack)


@app.callback(invoke_without_command=True)
def everything(context: typer.Context, commit_log: CommitLog = "periodic") -> None:
    """Throughput, then latency at 70 % of it. Subcommands run one benchmark each."""
    if context.invoked_subcommand:
        return
    from benchmarks.latency import latency

    load = Load.of(EVENTS, USERS)

    def measure(stack: Stack) -> dict[str, Any]:
        found = throughput_.throughput(stack, load, REPETITIONS)
        rate = SHARE * found["events_per_s"]["whole"]
        return {"throughput": found, "latency": latency(stack, load, rate, SAMPLES)}

    report_on_stack("all", BENCH_ROOT, commit_log, load, measure)


@app.command()
def throughput(
    root: Root = BENCH_ROOT,
    events: Events = EVENTS,
    users: Users = USERS,
    repetitions: Repetitions = REPETITIONS,
    commit_log: CommitLog = "periodic",
) -> None:
    """Events a second of the whole job, without the writes, and without model and writes."""
    load = Load.of(events, users)
    report_on_stack(
        "throughput",
        root,
        commit_log,
        load,
        lambda stack: throughput_.throughput(stack, load, repetitions),
    )


@app.command()
def bytewax(
    root: Root = BENCH_ROOT,
    events: Events = EVENTS,
    users: Users = USERS,
    repetitions: Repetitions = REPETITIONS,
    commit_log: CommitLog = "periodic",
) -> None:
    """The whole job beside the same work in a Bytewax dataflow, which must be installed."""
    from benchmarks.against_bytewax import against_bytewax, require_bytewax

    require_bytewax()
    load = Load.of(events, users)
    report_on_stack(
        "bytewax", root, commit_log, load, lambda stack: against_bytewax(stack, load, repetitions)
    )


@app.command()
def users(
    root: Root = BENCH_ROOT,
    events: Events = EVENTS,
    counts: Annotated[str, typer.Option(help="Numbers of users.")] = "2000,20000,200000",
    commit_log: CommitLog = "periodic",
) -> None:
    """What an event costs as the number of users grows."""
    load = Load.of(events, USERS)
    numbers = [int(count) for count in counts.split(",")]
    report_on_stack(
        "users", root, commit_log, load, lambda stack: throughput_.users(stack, load, numbers)
    )


@app.command()
def latency(
    root: Root = BENCH_ROOT,
    events: Events = EVENTS,
    users: Users = USERS,
    rate: Annotated[
        float | None,
        typer.Option(help="Events a second. Default: 70 % of what a run before it reaches."),
    ] = None,
    samples: Samples = SAMPLES,
    commit_log: CommitLog = "periodic",
) -> None:
    """From the event that closes a window until its profiles can be read."""
    from benchmarks.latency import latency

    load = Load.of(events, users)

    def measure(stack: Stack) -> dict[str, Any]:
        if rate is not None:
            return latency(stack, load, rate, samples)
        fastest = throughput_.run(stack, "whole", "fastest", load)
        found = latency(stack, load, SHARE * fastest["events_per_s"], samples)
        return {"share": SHARE, "fastest_events_per_s": fastest["events_per_s"], **found}

    report_on_stack("latency", root, commit_log, load, measure)


@app.command()
def alerts(
    root: Root = BENCH_ROOT,
    rates: Annotated[str, typer.Option(help="Scored events a second.")] = "100,1000",
    background: Annotated[
        float, typer.Option(help="Events a second for the windows beside them.")
    ] = BACKGROUND,
    warm_up: Annotated[float, typer.Option(help="Seconds of each rate that don't count.")] = 180,
    seconds: Annotated[float, typer.Option(min=10, help="Of each rate that count.")] = 60,
    parallelism: Annotated[int, typer.Option(min=1, help="Of the job.")] = runs.PARALLELISM,
    changelog: Annotated[bool, typer.Option(help="The job's setting of that name.")] = False,
    stagger_ms: Annotated[int, typer.Option(min=0, help="The windows' setting of that name.")] = 0,
    commit_log: CommitLog = "periodic",
) -> None:
    """From an event until its alert can be read by a consumer, its flag stored before."""
    from benchmarks.alerts import alerts

    load = Load.of(round(background * (warm_up + seconds)), USERS)
    report_on_stack(
        "alerts",
        root,
        commit_log,
        load,
        lambda stack: {
            "runs": [
                alerts(
                    stack, load, background, float(rate), warm_up, seconds, changelog, stagger_ms
                )
                for rate in rates.split(",")
            ]
        },
        parallelism,
    )


@app.command("card-frauds")
def card_frauds(
    file: Annotated[Path, typer.Argument(help="Transactions of the Fraud Handbook (Parquet).")],
    root: Root = BENCH_ROOT,
    first: Annotated[
        datetime, typer.Option(formats=["%Y-%m-%d"], help="Replayed and trained on from here on.")
    ] = datetime(2018, 6, 20),
    commit_log: CommitLog = "periodic",
) -> None:
    """The handbook's test week through Kafka and the job: stored scores against offline ones."""
    from benchmarks.models.card_frauds import card_frauds
    from models.fraud.card_transactions.data import Period

    period = Period.of(date(2018, 7, 25), date(2018, 7, 31), 7, date(2018, 8, 8), date(2018, 8, 14))
    report_on_stack(
        "card-frauds",
        root,
        commit_log,
        None,
        lambda stack: card_frauds(stack, file, first.date(), period),
    )


@app.command()
def operator(
    root: Root = BENCH_ROOT,
    events: Events = 100_000,
    users: Users = USERS,
    batch_rows: Annotated[int, typer.Option(min=1)] = 500,
    store: Annotated[list[str], typer.Option(help="none, cassandra; several in turn.")] = ["none"],  # noqa: B006
) -> None:
    """The operator's work alone, without Flink: us a profile by stage."""
    from benchmarks.models.operator import operator

    load = Load.of(events, users)
    report("operator", load, lambda: operator(root, load, batch_rows, store))


@app.command()
def restarts(
    root: Root = BENCH_ROOT,
    count: Annotated[int, typer.Option(min=1)] = 100,
    resubmit_every: Annotated[
        int, typer.Option(min=0, help="Cancel and submit for each so many; 0: never.")
    ] = 5,
    commit_log: CommitLog = "periodic",
) -> None:
    """Whether the TaskManager's memory grows with a job's restarts."""
    from benchmarks.restarts import restarts

    window = Load(n=200, users=100, hours=1 / 12)
    report_on_stack(
        "restarts",
        root,
        commit_log,
        window,
        lambda stack: restarts(stack, window, count, resubmit_every),
    )


@app.command("training-rows")
def training_rows(
    root: Root = BENCH_ROOT,
    windows: Annotated[str, typer.Option(help="Sizes to read.")] = "20000,200000",
) -> None:
    """Whether a training's memory grows with its rows."""
    from benchmarks.models.training_rows import load_of, training_rows

    sizes = [int(size) for size in windows.split(",")]
    report("training-rows", load_of(sizes[0]), lambda: {"sizes": training_rows(root, sizes)})


@app.command()
def models(
    checkpoint: Annotated[
        list[Path], typer.Option(help="Folder of a model; several, the reference's first.")
    ],
    rows: Annotated[Path, typer.Option(help="Parquet file or folder of a backfill.")],
    recipe: Annotated[str, typer.Option(help="How the rows are parted.")] = "complete-journey",
    windows: Annotated[int, typer.Option(min=100, help="Of the validation part.")] = 3_000,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of timing.")] = 5,
) -> None:
    """Checkpoints and cheaper forms of them: size, rows a second, and every head's quality."""
    from benchmarks.models.model_table import models, table
    from models.profile.recipes import recipe as named

    load, chosen = Load.of(100_000, USERS), named(recipe)

    def measure() -> dict[str, Any]:
        found = models(checkpoint, rows, chosen, load, windows, repeats)
        typer.echo(table(found))
        return found

    report("models", load, measure)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of everything that cleans up
    try:
        app()
    except LiveprofileError as error:
        sys.stderr.write(f"benchmarks: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
