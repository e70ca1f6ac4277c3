"""`liveprofile backfill`: training rows by the job's own views."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.common import (
    ConfigOption,
    JsonOption,
    RejectedLabels,
    config_file,
    print_json,
    read_settings,
)
from liveprofile.errors import InputError


def backfill(
    rows: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the Parquet goes, a folder a month.")
    ],
    file: Annotated[
        Path | None,
        typer.Argument(
            help="CSV, Parquet or JSON lines; without one, the input topic as it is now.",
            show_default=False,
        ),
    ] = None,
    mapping: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", show_default=False, help="How its rows become events, as for replay."
        ),
    ] = None,
    pipeline: Annotated[
        Literal["profile", "scoring"],
        typer.Option(
            help="profile: one row per user and window, for the user model. scoring: one row per"
            " scored event, for `train event-risk`."
        ),
    ] = "profile",
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="With --pipeline scoring: labels, as for feedback send; without, the topic"
            " risk-feedback as it is now.",
        ),
    ] = None,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="In a Flink of its own, not on flink.rest_url.")
    ] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Make training rows of past events, by the same views as the stream's."""
    from cli.pipeline import backfill_run as rows_of

    if labels is not None and pipeline != "scoring":
        raise InputError("--labels goes with --pipeline scoring: windows have no labels")
    settings = read_settings(config)
    common = {
        "config": config_file(config),
        "source": file,
        "mapping": mapping,
        "cluster": not embedded,
        "on_step": lambda step: typer.echo(step, err=True),
    }
    if pipeline == "profile":
        result = rows_of.backfill(settings, rows, **common)
    else:
        rejected = RejectedLabels(labels or settings.topics.feedback)
        result = rows_of.backfill_events(
            settings, rows, **common, labels=labels, on_rejected=rejected
        )
    if json:
        print_json(result._asdict())
    else:
        typer.echo(f"{result.rows:,} rows in {result.folder}")
