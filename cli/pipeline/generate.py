"""Simulates a shop and writes its events and fraud labels to files."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer


def _count_option(kind: str, per_10_000: str) -> typer.models.OptionInfo:
    return typer.Option(
        min=0, help=f"Number of {kind}. Default: {per_10_000} per 10,000 users and day."
    )


def generate(
    out: Annotated[Path, typer.Option()],
    labels: Path | None = None,
    users: Annotated[int, typer.Option(min=1)] = 1_000,
    days: Annotated[int, typer.Option(min=1)] = 30,
    start: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"])] = datetime(2024, 1, 1),
    seed: Annotated[int, typer.Option(min=0)] = 0,
    events_per_user_day: float = 5.0,
    takeovers: Annotated[int | None, _count_option("account takeovers", "2")] = None,
    card_tests: Annotated[int | None, _count_option("card-testing attacks", "0.5")] = None,
    rings: Annotated[int | None, _count_option("fraud rings", "0.2")] = None,
    honest_changes: Annotated[int | None, _count_option("legitimate changes of habit", "5")] = None,
    campaigns: Annotated[int | None, _count_option("sales campaigns", "0.2")] = None,
    ring_users: Annotated[int, typer.Option(min=1)] = 50,
    ring_devices: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Simulate a shop with known frauds and write its events and labels to files.

    The last line is JSON with the counts of what was written; it goes to stderr if the events go
    to stdout. docs/simulator.md describes the simulation.

    Example:
    `liveprofile events generate --out shop.jsonl --labels labels.jsonl --users 500 --days 10`

    Options:
    out FILE: Events file: .jsonl, .parquet, or - for JSON lines on stdout.
    labels FILE: Labels file: .jsonl or .parquet. Default: no labels are written.
    users: Number of legitimate users.
    days: Number of days.
    start: First day (UTC).
    seed: Random seed; the same seed gives the same bytes.
    events_per_user_day: Mean number of events per active user and day.
    ring_users: Users per fraud ring.
    ring_devices: Devices per fraud ring.
    """
    import orjson

    from cli.progress import count_bar
    from liveprofile.simulator import Shop, ShopConfig
    from liveprofile.simulator.output import STDOUT, write_shop

    shop = Shop(
        ShopConfig(
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
    with count_bar("generating", days, "days") as advance:
        written = write_shop(shop, out, labels, lambda _: advance(1))
    typer.echo(orjson.dumps(written._asdict()), err=out == STDOUT)
