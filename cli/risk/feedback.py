"""`liveprofile feedback`: labels from elsewhere, such as chargebacks, for the scoring to learn."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from cli.common import ConfigOption, RejectedLabels, print_json, read_settings
from cli.risk.alerts import ByOption

feedback = typer.Typer(
    name="feedback",
    no_args_is_help=True,
    help="Labels of events, fraud or legitimate, that come from elsewhere.",
)


@feedback.callback()
def group() -> None:
    """With one command only, typer would leave its name out."""


@feedback.command()
def send(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSON lines, or Parquet (.parquet).")
    ],
    by: ByOption,
    config: ConfigOption = None,
) -> None:
    """Send the labels of a file to the topic risk-feedback; sending again is harmless.

    A row: event_id, user_id, label (fraud or legitimate), event_time, time or known_at; maybe
    analyst (else --by), event_type, device_id, place, shop_id, coupon_id, address_id. The last line
    is JSON: sent, rejected, seconds. Exit code 1 if a row was rejected; the others are sent.
    """
    from rich import progress as bars
    from rich.console import Console

    from liveprofile.labels import feedback as labels

    settings = read_settings(config)
    rejected = RejectedLabels(file)
    console = Console(stderr=True)
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
    )
    started_s = time.monotonic()
    with bars.Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(f"sending {file.name}", total=labels.rows_estimate(file))
        rows = labels.read_labels(file, by)
        sent = labels.send(settings, labels.valid(rows, rejected, on_row=lambda: bar.advance(task)))
    print_json(
        {
            "sent": sent,
            "rejected": rejected.count,
            "seconds": round(time.monotonic() - started_s, 3),
        }
    )
    if rejected.count:
        raise typer.Exit(1)
