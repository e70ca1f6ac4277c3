"""Compares a fixed model with one that is updated weekly."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from cli.common import print_json
from cli.learning.options import CheckpointOption, RowsOption, day_option
from cli.progress import progress
from models.profile.recipes import recipe


def walk_forward(
    name: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Recipe for the incremental training.")
    ],
    rows: RowsOption,
    folder: CheckpointOption,
    first: Annotated[datetime, day_option("--from", "First day of week 1 (UTC).")],
    weeks: Annotated[int, typer.Option("--weeks", min=1, help="Number of weeks.")] = 4,
) -> None:
    """Compare, week by week, a fixed model checkpoint with one trained on the weeks before.

    Both rank the events of a week before training on it. The last line is JSON.

    Example: `liveprofile model walk-forward general --rows rows --checkpoint models/shop-1
    --from 2026-06-01`
    """
    from models.profile.experiments.walk_forward import walk_forward as run

    with progress() as on_progress:
        report = run(recipe(name), rows, folder, first, weeks, on_progress)
    print_json({"recipe": name, "weeks": report})
