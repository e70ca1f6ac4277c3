"""`liveprofile risk feedback`: sends labels from other sources, such as chargebacks, to the job."""

from __future__ import annotations

import time
from pathlib import Path

import typer

from cli.common import ConfigOption, RejectedLabelReporter, print_json, read_settings
from cli.options import Commands
from cli.progress import count_bar
from cli.risk.alerts import AnalystOption

feedback = Commands(
    name="feedback",
    help="Send labels (fraud or legitimate) of events to the scoring pipeline.",
)


@feedback.callback()
def group() -> None:
    """Makes `send` a subcommand: without a callback typer merges a single command."""


@feedback.command()
def send(
    file: Path,
    by: AnalystOption,
    config: ConfigOption = None,
) -> None:
    """Send the labels of a file to the topic risk-feedback; sending a label twice has no effect.

    Required columns: event_id, user_id, label (fraud or legitimate), event_time, and time or
    known_at. Optional: analyst (default --by), event_type, device_id, place, shop_id, coupon_id,
    address_id. The last line is JSON: sent, rejected, seconds. Exit code 1 if a row was rejected;
    the other rows are sent.

    Example: `liveprofile risk feedback send chargebacks.jsonl --by payments`

    Options:
    file FILE: Labels: JSON lines, or Parquet (.parquet).
    """
    from liveprofile.labels import feedback as labels

    settings = read_settings(config)
    rejected = RejectedLabelReporter(file)
    started_s = time.monotonic()
    with count_bar(f"sending {file.name}", labels.estimate_rows(file)) as advance:
        rows = labels.read_labels(file, by)
        valid_rows = labels.keep_valid(rows, rejected, on_row=lambda: advance(1))
        sent = labels.send_labels(settings, valid_rows)
    print_json(
        {
            "sent": sent,
            "rejected": rejected.count,
            "seconds": round(time.monotonic() - started_s, 3),
        }
    )
    if rejected.count:
        raise typer.Exit(1)
