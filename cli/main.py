"""The `liveprofile` command."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from cli.alerts import alerts
from cli.attributes import attributes
from cli.audit import audit
from cli.backfill import backfill
from cli.campaign import campaign
from cli.consent import consent
from cli.demo.command import demo
from cli.doctor.command import doctor
from cli.events import bootstrap, decode, generate, heartbeat, mapping, recompute_late, replay
from cli.explain.command import explain
from cli.identity import link_logins, merge
from cli.job import cancel, migrations, savepoint, setup, status, stop, submit
from cli.learning.evaluate import evaluate
from cli.learning.model import model
from cli.learning.train import train
from cli.learning.tune import tune
from cli.options import Commands
from cli.privacy import data_inventory, erase, export
from cli.profile import deltas, flags, scores, show
from cli.rejected import rejected
from cli.risk import consume, drift, feedback, rules
from cli.segments import segments
from cli.serve import api, console, key, metrics
from cli.shop import funnel, retention, trends
from cli.upgrade import upgrade
from liveprofile import __version__
from liveprofile.errors import LiveprofileError

CommandTuple = tuple[Callable[..., None] | typer.Typer, ...]


def group(name: str, description: str, commands: CommandTuple) -> typer.Typer:
    """A group of commands: `liveprofile NAME COMMAND`."""
    made = Commands(name=name, help=description)
    add(made, commands)
    return made


def add(to: typer.Typer, commands: CommandTuple, panel: str | None = None) -> None:
    for command in commands:
        if isinstance(command, typer.Typer):
            to.add_typer(command, rich_help_panel=panel)
        else:
            to.command(rich_help_panel=panel)(command)


add(model, (backfill, train, tune, evaluate))

# The panels of `liveprofile --help`, by the reader's task.
PANELS: dict[str, CommandTuple] = {
    "Start here": (demo, doctor),
    "Operate": (
        group(
            "job",
            "Tables and topics, and the Flink job: start, watch, stop, upgrade.",
            (setup, migrations, submit, status, stop, savepoint, cancel, upgrade),
        ),
        group(
            "events",
            "Send, check and account for events.",
            (
                *(generate, mapping, replay, decode, heartbeat),
                *(rejected, audit, bootstrap, recompute_late),
            ),
        ),
        group("serve", "The read API, the console and metrics.", (api, console, metrics, key)),
    ),
    "Read": (
        group(
            "profile",
            "What is stored about a user.",
            (show, deltas, scores, flags, explain),
        ),
        group("shop", "Counts of the whole shop.", (trends, funnel, retention)),
    ),
    "Act on fraud": (
        group(
            "risk",
            "Alerts, rules and the drift of the fraud model.",
            (alerts, consume, feedback, rules, drift),
        ),
    ),
    "Address users": (segments, attributes, campaign),
    "Respect a person's choices": (
        group(
            "privacy",
            "Consent, erasure, export and where data is kept.",
            (consent, erase, export, data_inventory),
        ),
        group("identity", "Ids that belong to one person.", (merge, link_logins)),
    ),
    "Train": (model,),
}

app = Commands(
    name="liveprofile",
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"liveprofile {__version__}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Real-time user profiles and fraud scores on Flink, Kafka and Cassandra.

    Exit codes: 0 success; 1 negative result (unknown user, failed audit); 2 invalid setting,
    argument or file; 3 Kafka, Cassandra or Flink does not answer or refuses.

    Example: `liveprofile job submit --wait`

    Options:
    version: Print the version.
    """
    # Clients log a warning per failed connection attempt; the final error is printed once.
    logging.basicConfig(level=logging.ERROR, format="%(name)s: %(message)s")
    for client in ("cassandra", "liveprofile.kafka"):
        logging.getLogger(client).setLevel(logging.CRITICAL)


for panel, commands in PANELS.items():
    add(app, commands, panel)


def main() -> None:
    """Runs the command line. A LiveprofileError is printed as one line, without a traceback."""
    try:
        app()
    except LiveprofileError as error:
        sys.stderr.write(f"liveprofile: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reading process, such as `head`, has ended
        sys.stderr.close()
        sys.exit(0)


if __name__ == "__main__":
    main()
