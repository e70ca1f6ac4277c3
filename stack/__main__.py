"""Starts, stops and inspects the local stack: python -m stack."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from liveprofile.errors import LiveprofileError
from liveprofile.flink.launcher import flink_options
from stack import DEFAULT_ROOT
from stack.local import Stack

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
Root = Annotated[Path, typer.Option(help="Folder of the stack with data, logs and ports.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Slots = Annotated[
    int | None,
    typer.Option(
        min=1, help="Task slots, one Python worker each. Default: the last value, initially 4."
    ),
]


def _report(stack: Stack, as_json: bool, seconds: float | None = None) -> None:
    status = stack.status() | ({} if seconds is None else {"seconds": round(seconds, 1)})
    if as_json:
        print(json.dumps(status))
        return
    table = Table("service", "pid", "port", "memory", "log", box=None)
    for name, each in status["services"].items():
        up = each["pid"] is not None
        table.add_row(
            name,
            str(each["pid"]) if up else "down",
            str(each["port"] or ""),
            f"{each['memory_mb']} MB" if up else "",
            each["log"],
        )
    console = Console()
    console.print(table)
    if status["services"]["jobmanager"]["pid"]:
        console.print(f"Flink: {stack.rest_url}  settings: {stack.config_file}", soft_wrap=True)
    if status["services"]["api"]["pid"]:
        console.print(f"read API: {stack.api.url}", soft_wrap=True)
    if status["services"]["console"]["pid"]:
        console.print(f"console: {stack.console.url}", soft_wrap=True)
    if seconds is not None:
        console.print(f"in {seconds:.1f} s")


@app.command()
def up(
    root: Root = DEFAULT_ROOT,
    slots: Slots = None,
    heartbeat: Annotated[
        bool,
        typer.Option(
            "--heartbeat",
            help="Also run `liveprofile events heartbeat`: for live traffic. It makes all events"
            " of a replayed file late.",
        ),
    ] = False,
    json_: Json = False,
) -> None:
    """Start the services that do not run, and wait until they answer.

    Example: `python -m stack up --heartbeat`
    """
    stack = Stack(root, slots=slots)
    started_s = time.monotonic()
    with Console(stderr=True).status("starting Kafka, Cassandra, Flink and the read API"):
        stack.start()
        stack.api.start()
        if heartbeat:
            stack.heartbeat.start()
    _report(stack, json_, time.monotonic() - started_s)


@app.command()
def stop(root: Root = DEFAULT_ROOT, json_: Json = False) -> None:
    """Stop all services and keep the data."""
    stack = Stack(root)
    started_s = time.monotonic()
    with Console(stderr=True).status("stopping"):
        stack.stop()
    _report(stack, json_, time.monotonic() - started_s)


@app.command()
def status(root: Root = DEFAULT_ROOT, json_: Json = False) -> None:
    """Show pids, ports and memory. Exit code 3 unless Kafka, Cassandra and Flink run."""
    stack = Stack(root)
    _report(stack, json_)
    if not all(service.alive() for service in stack.services.values()):
        raise typer.Exit(3)


@app.command()
def restart(
    service: Annotated[str, typer.Argument(help="kafka, cassandra, jobmanager or taskmanager")],
    root: Root = DEFAULT_ROOT,
    slots: Slots = None,
    json_: Json = False,
) -> None:
    """Stop and start one service. It keeps its port and data."""
    stack = Stack(root, slots=slots)
    restarted = stack.service(service)
    started_s = time.monotonic()
    restarted.stop()
    restarted.start()
    _report(stack, json_, time.monotonic() - started_s)


@app.command()
def config(
    gpu: Annotated[bool, typer.Option("--gpu", help="For a cluster with GPUs.")] = False,
) -> None:
    """Print the Flink configuration (config.yaml) for another cluster."""
    print(yaml.safe_dump(flink_options(gpu), width=10_000), end="")


def main() -> None:
    try:
        app(prog_name="python -m stack")
    except LiveprofileError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
