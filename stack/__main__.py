"""Starts, stops and inspects the local stack: python -m stack."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
import yaml
from rich.console import Console

from liveprofile.errors import LiveprofileError
from liveprofile.flink.launcher import flink_options
from stack import DEFAULT_ROOT
from stack.local import Stack

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
Root = Annotated[Path, typer.Option(help="Folder of the stack with data, logs and ports.")]
Slots = Annotated[
    int | None,
    typer.Option(
        min=1, help="Task slots, one Python worker each. Default: the last value, initially 4."
    ),
]
Pipelines = Annotated[
    Literal["together", "apart"] | None,
    typer.Option(help="job.pipelines. Default: the last value, initially together."),
]


def _report(stack: Stack) -> None:
    status = stack.status()
    for name, each in status["services"].items():
        state = f"pid {each['pid']}, {each['memory_mb']} MB" if each["pid"] else "down"
        address = each["address"] if each["pid"] else ""
        print(f"{name:<12} {state:<22} {address:<24} {each['log']}")
    print(f"settings: {status['config']}")


@app.command()
def up(root: Root = DEFAULT_ROOT, slots: Slots = None, pipelines: Pipelines = None) -> None:
    """Start the services that do not run, and wait until they answer.

    It sends no heartbeats, which would make all events of a replayed file late. For live traffic:

    Example: `LIVEPROFILE_CHORES__HEARTBEAT_S=1 python -m stack up`
    """
    stack = Stack(root, slots=slots, pipelines=pipelines)
    with Console(stderr=True).status("starting Kafka, Cassandra, Flink, the read API and chores"):
        stack.start()
        stack.api.start()
        stack.chores.start()
    _report(stack)


@app.command()
def stop(root: Root = DEFAULT_ROOT) -> None:
    """Stop all services and keep the data."""
    stack = Stack(root)
    with Console(stderr=True).status("stopping"):
        stack.stop()
    _report(stack)


@app.command()
def status(root: Root = DEFAULT_ROOT) -> None:
    """Show pids, addresses and memory. Exit code 3 unless Kafka, Cassandra and Flink run."""
    stack = Stack(root)
    _report(stack)
    if not all(service.alive() for service in stack.services.values()):
        raise typer.Exit(3)


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
