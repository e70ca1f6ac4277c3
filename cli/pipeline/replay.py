"""`liveprofile replay`: sends a file of behaviour onto the topic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.common import ConfigOption, JsonOption, print_json, read_settings


def replay(
    file: Annotated[Path, typer.Argument(help="CSV, Parquet or JSON lines.", show_default=False)],
    mapping: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="How its rows become events (TOML, see mappings/). Without one, FILE holds"
            " events as JSON lines.",
        ),
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help="Default: topics.events.", show_default=False)
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Events per second; else as fast as Kafka takes them.")
    ] = None,
    speed: Annotated[
        float | None, typer.Option(help="So many times as fast as the event times tell.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first N events only.")] = None,
    close_windows: Annotated[
        bool,
        typer.Option(
            "--close-windows",
            help="End with heartbeats that close the last windows. Earlier events sent later"
            " are then late.",
        ),
    ] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Send a file of behaviour onto the input topic, keyed by user."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    from liveprofile.ingest.replay import replay as send
    from liveprofile.ingest.replay import rows_estimate

    settings = read_settings(config)
    expected = rows_estimate(file, mapping)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("events"),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(f"sending {file.name}", total=min(expected, limit or expected))
        result = send(
            file,
            mapping,
            settings,
            topic=topic,
            rate=rate,
            speed=speed,
            limit=limit,
            close_windows=close_windows,
            progress=lambda count: progress.advance(task, count),
        )
    if close_windows and not result.closed:
        typer.echo(
            "the last windows stay open: their end lies further ahead than limits.max_clock_skew_ms"
            " lets a heartbeat go",
            err=True,
        )
    if json:
        print_json(result._asdict())
    else:
        pace = result.sent / result.seconds if result.seconds else 0
        typer.echo(f"{result.sent} events sent in {result.seconds:.1f} s ({pace:,.0f}/s)")
