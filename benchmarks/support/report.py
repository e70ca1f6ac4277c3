"""What all benchmarks share: options, environment, the line of JSON."""

import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from benchmarks.load.workload import Workload
from benchmarks.support import runs
from liveprofile.errors import LiveprofileError
from liveprofile.flink.jars import JARS
from liveprofile.resources import ROOT
from stack.local import Stack

EVENTS, USERS, REPETITIONS = 400_000, 20_000, 2

Events = Annotated[int, typer.Option(min=1_000, help="Number of generated events per run.")]
Users = Annotated[int, typer.Option(min=1, help="Number of users.")]
Repetitions = Annotated[
    int, typer.Option(min=1, help="Measured runs per variant; the variants alternate.")
]


def run(commands: typer.Typer) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # SystemExit runs the clean-up
    try:
        commands()
    except LiveprofileError as error:
        sys.stderr.write(f"benchmarks: {error}\n")
        sys.exit(error.exit_code)


def report(name: str, workload: Workload | None, measure: Callable[[], dict[str, Any]]) -> None:
    """Runs a benchmark and prints its JSON line: environment, workload and results."""
    head = {"benchmark": name, **describe(), "load": workload and asdict(workload)}
    typer.echo(json.dumps(head | measure()))


def report_on_stack(
    name: str, workload: Workload | None, measure: Callable[[Stack], dict[str, Any]]
) -> None:
    """Runs a benchmark that needs Kafka, Cassandra and Flink, on a stack of its own."""

    def with_stack() -> dict[str, Any]:
        with runs.started_stack() as stack:
            return {"configuration": runs.configuration(stack), **measure(stack)}

    report(name, workload, with_stack)


def describe() -> dict[str, Any]:
    """The environment of a measurement: hardware, versions, date, commit and the job's code."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "code": job_code(),
        "hardware": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        },
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "versions": {
            "python": platform.python_version(),
            "flink": version("apache-flink"),
            "torch": version("torch"),
            "kafka": _jar_version("kafka", "kafka_2.13"),
            "cassandra": _jar_version("cassandra", "cassandra-all"),
        },
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _jar_version(service: str, artifact: str) -> str:
    jars = (JARS / service).glob(f"{artifact}-*")
    return next((jar.stem.removeprefix(f"{artifact}-") for jar in jars), "unknown")


def _commit() -> str:
    """The commit, with "+" if tracked files have changed; "unknown" outside a git repository."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def job_code() -> str:
    """A hash of the code that the job runs, which published figures name; "unknown" without git."""
    try:
        files = _git("ls-files", "--stage", "jobs", "udfs", "flink-conf")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return hashlib.sha256(files.encode()).hexdigest()[:10]


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
