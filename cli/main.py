"""The `liveprofile` command."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from typing import Annotated, NamedTuple

import typer

from cli.demo import demo
from cli.doctor import doctor
from cli.options import Commands, lazily
from liveprofile import __version__
from liveprofile.errors import LiveprofileError

# The panels of `liveprofile --help`, by the reader's task.
START, OPERATE, READ = "Start here", "Operate", "Read"
FRAUD, ADDRESS = "Act on fraud", "Address users"
PRIVACY, TRAIN = "Respect a person's choices", "Train"


class Group(NamedTuple):
    """The commands `liveprofile NAME COMMAND`. functions: their modules below cli, and names."""

    name: str
    panel: str
    help: str
    functions: dict[str, str]

    def load(self) -> typer.Typer:
        loaded = Commands()
        for module, names in self.functions.items():
            for name in names.split():
                command = getattr(import_module(f"cli.{module}"), name)
                if isinstance(command, typer.Typer):
                    loaded.add_typer(command)
                else:
                    loaded.command()(command)
        return loaded


EVENTS = "generate types mapping replay decode bootstrap recompute_late"
SEGMENTS_HELP = (
    "Check, preview and apply segment definitions, list the current ones. docs/segments.md"
    " describes the format."
)
ATTRIBUTES_HELP = (
    "Send, store and show what others know about users: declared, third-party and verified"
    " attributes. docs/data-contract.md describes them."
)
CAMPAIGN_HELP = (
    "Plan a campaign, send it, and report what it changed (docs/campaigns.md)."
    "\n\nExample: `liveprofile campaign report spring`"
)
MODEL_HELP = (
    "Train and evaluate models, and change the user model of running jobs without a restart."
    " docs/operate.md describes the steps."
)
LEARNING = {f"learning.{name}": name for name in ("train", "tune", "evaluate")}
GROUPS = (
    Group(
        "job",
        OPERATE,
        "Tables and topics, and the Flink job: start, watch, stop, upgrade.",
        {"job": "setup submit status stop savepoint cancel upgrade"},
    ),
    Group(
        "events",
        OPERATE,
        "Send, check and account for events.",
        {"events": EVENTS, "rejected": "rejected", "audit": "audit"},
    ),
    Group(
        "serve",
        OPERATE,
        "The read API, the console, metrics and chores.",
        {"serve": "api console metrics chores key"},
    ),
    Group(
        "profile",
        READ,
        "What is stored about a user.",
        {"profile": "show deltas scores explain"},
    ),
    Group("shop", READ, "Counts of the whole shop.", {"shop": "trends"}),
    Group(
        "risk",
        FRAUD,
        "Alerts, rules and the drift of the fraud model.",
        {"alerts": "alerts", "risk": "consume feedback rules drift"},
    ),
    Group("segments", ADDRESS, SEGMENTS_HELP, {"segments": "segments"}),
    Group("attributes", ADDRESS, ATTRIBUTES_HELP, {"attributes": "attributes"}),
    Group("campaign", ADDRESS, CAMPAIGN_HELP, {"campaign": "campaign"}),
    Group(
        "privacy",
        PRIVACY,
        "Consent, erasure, export and where data is kept.",
        {"consent": "consent", "privacy": "erase export data_inventory"},
    ),
    Group("identity", PRIVACY, "Ids that belong to one person.", {"identity": "merge link_logins"}),
    Group(
        "model", TRAIN, MODEL_HELP, {"learning.model": "model", "backfill": "backfill"} | LEARNING
    ),
)

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


for command in (demo, doctor):
    app.command(rich_help_panel=START)(command)
for group in GROUPS:
    app.add_typer(
        Commands(name=group.name, help=group.help, cls=lazily(group.load)),
        rich_help_panel=group.panel,
    )


def main() -> None:
    """Runs the command line. A LiveprofileError is printed as one line, without a traceback."""
    # Clients log a warning per failed connection attempt; the final error is printed once.
    logging.basicConfig(level=logging.ERROR, format="%(name)s: %(message)s")
    for client in ("cassandra", "liveprofile.kafka"):
        logging.getLogger(client).setLevel(logging.CRITICAL)
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
