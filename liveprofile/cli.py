"""The `liveprofile` command."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from liveprofile import __version__
from liveprofile.commands.alerts import alerts
from liveprofile.commands.audit import audit
from liveprofile.commands.backfill import backfill
from liveprofile.commands.catalogue import catalogue
from liveprofile.commands.consume import consume
from liveprofile.commands.demo import demo
from liveprofile.commands.drift import drift
from liveprofile.commands.evaluate import evaluate
from liveprofile.commands.feedback import feedback
from liveprofile.commands.generate import generate
from liveprofile.commands.reads import deltas, flags, show
from liveprofile.commands.replay import replay
from liveprofile.commands.rules import rules
from liveprofile.commands.status import status
from liveprofile.commands.submit import submit
from liveprofile.commands.train import train
from liveprofile.commands.tune import tune
from liveprofile.commands.walk import walk_forward
from liveprofile.errors import LiveprofileError

app = typer.Typer(
    name="liveprofile",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"liveprofile {__version__}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Real-time user profiles on Flink, Kafka and Cassandra.

    Exit codes: 0 done; 1 the answer is no (an unknown user, an audit that fails); 2 a setting,
    an argument or a file is wrong; 3 Kafka, Cassandra or Flink does not answer or refuses.
    """
    # Clients repeat each failed connection as a warning; what matters ends in our one line.
    logging.basicConfig(level=logging.ERROR, format="%(name)s: %(message)s")
    for client in ("cassandra", "liveprofile.kafka"):
        logging.getLogger(client).setLevel(logging.CRITICAL)


for command in (
    demo, submit, status, generate, replay, show, deltas, flags, consume, audit, backfill, tune,
    walk_forward,
):  # fmt: skip
    app.command()(command)
app.add_typer(alerts)
app.add_typer(feedback)
app.add_typer(train)
app.add_typer(evaluate)
app.add_typer(catalogue)
app.add_typer(rules)
app.add_typer(drift)


def main() -> None:
    """Runs the command line; an error that Liveprofile knows is one line, not a traceback."""
    try:
        app()
    except LiveprofileError as error:
        sys.stderr.write(f"liveprofile: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stderr.close()
        sys.exit(0)


if __name__ == "__main__":
    main()
