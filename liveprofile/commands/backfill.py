"""`liveprofile backfill`: training rows by the job's own views."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from liveprofile.commands.common import (
    ConfigOption,
    JsonOption,
    config_file,
    print_json,
    read_settings,
)


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
    embedded: Annotated[
        bool, typer.Option("--embedded", help="In a Flink of its own, not on flink.rest_url.")
    ] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Make training rows of past events, by the same views as the stream's."""
    from liveprofile.backfill import backfill as run

    result = run(
        read_settings(config),
        rows,
        config=config_file(config),
        source=file,
        mapping=mapping,
        cluster=not embedded,
        on_step=lambda step: typer.echo(step, err=True),
    )
    if json:
        print_json(result._asdict())
    else:
        typer.echo(f"{result.rows:,} rows in {result.folder}")
