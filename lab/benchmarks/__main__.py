"""python -m lab.benchmarks: benchmarks whose figures seldom change; prints one line of JSON."""

from __future__ import annotations

from typing import Annotated

import typer

from benchmarks.load.workload import Workload
from benchmarks.support.report import USERS, Events, Users, report, report_on_stack, run
from benchmarks.support.runs import BENCH_ROOT
from cli.options import Commands
from lab.benchmarks.alerts import alerts
from lab.benchmarks.gpu import gpu
from lab.benchmarks.latency import latency
from lab.benchmarks.peers.command import peers
from lab.benchmarks.serve import serve

app = Commands(add_completion=False, pretty_exceptions_enable=False)
app.command()(alerts)
app.command()(gpu)
app.command()(latency)
app.command()(serve)
app.command()(peers)


@app.command()
def restarts(
    count: Annotated[int, typer.Option(min=1)] = 100,
    resubmit_every: Annotated[int, typer.Option(min=0)] = 5,
) -> None:
    """Measure whether the TaskManager's memory grows with the restarts of a job.

    Options:
    count: Number of restarts.
    resubmit_every: Every N-th restart cancels and submits the job instead; 0: never.
    """
    from lab.benchmarks.restarts import restarts

    window = Workload(n=200, users=100, hours=1 / 12)
    report_on_stack(
        "restarts", window, lambda stack: restarts(stack, window, count, resubmit_every)
    )


@app.command()
def attributes(numbers: str = "0,3,10,50,200", users: Users = USERS) -> None:
    """Measure the CPU of an event and the bytes of a profile by the number of computed attributes.

    Options:
    numbers: Numbers of attributes, with commas.
    """
    from lab.benchmarks.attributes import attributes

    sizes = [int(size) for size in numbers.split(",")]
    report("attributes", None, lambda: {"numbers": attributes(sizes, users)})


@app.command()
def segments(users: Users = 50_000) -> None:
    """Measure how fast a sweep applies segments to all users while the job runs."""
    from lab.benchmarks.segments import segments

    report_on_stack("segments", None, lambda stack: segments(stack, users))


@app.command()
def storage(events: Events = 100_000, users: Users = USERS) -> None:
    """Measure the bytes on Cassandra's disk for each window and score, by table."""
    from lab.benchmarks.storage import bytes_per_window

    workload = Workload.of(events, users)
    report("storage", workload, lambda: bytes_per_window(workload))


@app.command("training-rows")
def training_rows(windows: str = "20000,200000") -> None:
    """Measure whether the memory of a training grows with the number of its rows.

    Options:
    windows: Numbers of training rows (windows), separated by commas.
    """
    from lab.benchmarks.training_rows import training_rows, workload_of_windows

    sizes = [int(size) for size in windows.split(",")]
    workload = workload_of_windows(sizes[0])
    report("training-rows", workload, lambda: {"sizes": training_rows(BENCH_ROOT, sizes)})


@app.command()
def audit(records: str = "2000000,20000000") -> None:
    """Measure whether the memory of an audit grows with the number of records.

    Options:
    records: Numbers, with commas.
    """
    from lab.benchmarks.audit import audit

    report("audit", None, lambda: {"sizes": audit([int(size) for size in records.split(",")])})


if __name__ == "__main__":
    run(app)
