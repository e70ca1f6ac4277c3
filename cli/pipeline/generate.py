"""`liveprofile generate`: seeded, labelled behaviour of a shop's users, into files."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer


def generate(
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="Events: .jsonl, .parquet, or - for JSON lines on stdout."
        ),
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", show_default=False, help="Labels: .jsonl or .parquet. Default: none."
        ),
    ] = None,
    users: Annotated[int, typer.Option(min=1, help="Ordinary users.")] = 1_000,
    days: Annotated[int, typer.Option(min=1)] = 30,
    start: Annotated[
        datetime, typer.Option(formats=["%Y-%m-%d"], help="The first day, UTC.")
    ] = datetime(2024, 1, 1),
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    events_per_user_day: Annotated[
        float, typer.Option(help="Mean over users, while they are there.")
    ] = 5.0,
    takeovers: Annotated[
        int | None, typer.Option(min=0, help="Default: 2 per 10,000 users and day.")
    ] = None,
    card_tests: Annotated[
        int | None, typer.Option(min=0, help="Default: 0.5 per 10,000 users and day.")
    ] = None,
    rings: Annotated[
        int | None, typer.Option(min=0, help="Default: 0.2 per 10,000 users and day.")
    ] = None,
    honest_changes: Annotated[
        int | None, typer.Option(min=0, help="Default: 5 per 10,000 users and day.")
    ] = None,
    campaigns: Annotated[
        int | None, typer.Option(min=0, help="Default: 0.2 per 10,000 users and day.")
    ] = None,
    ring_users: Annotated[int, typer.Option(min=1, help="Users of a ring.")] = 50,
    ring_devices: Annotated[int, typer.Option(min=1, help="Devices of a ring.")] = 3,
) -> None:
    """Make a shop's events with planted fraud, and a file of labels.

    The last line, on stderr if the events go to stdout, is JSON: what was written. See
    docs/generator.md for what is drawn and why.
    """
    import orjson
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from liveprofile.simulator import Config, Shop
    from liveprofile.simulator.write import STDOUT, write

    shop = Shop(
        Config(
            users=users,
            days=days,
            start=start.date(),
            seed=seed,
            events_per_user_day=events_per_user_day,
            takeovers=takeovers,
            card_tests=card_tests,
            rings=rings,
            honest_changes=honest_changes,
            campaigns=campaigns,
            ring_users=ring_users,
            ring_devices=ring_devices,
        )
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("days"),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("generating", total=days)
        written = write(shop, out, labels, lambda count: progress.advance(task))
    typer.echo(orjson.dumps(written._asdict()), err=out == STDOUT)
