"""`liveprofile walk-forward RECIPE`: is a model that goes on better? The last line is JSON."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from cli.common import print_json
from cli.progress import progress
from models.profile.recipes import recipe


def walk_forward(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="How the model goes on.")],
    rows: Annotated[
        Path,
        typer.Option("--rows", metavar="PATH", help="Parquet file or folder of a backfill."),
    ],
    folder: Annotated[
        Path, typer.Option("--checkpoint", metavar="FOLDER", help="What liveprofile train wrote.")
    ],
    first: Annotated[
        datetime,
        typer.Option("--from", formats=["%Y-%m-%d"], metavar="DAY", help="First day of week 1."),
    ],
    weeks: Annotated[int, typer.Option("--weeks", min=1)] = 4,
) -> None:
    """Week by week, a checkpoint as it is beside one that goes on with the weeks that have passed.

    Both rank a week's events before either has seen them. The last line is JSON.
    """
    from models.profile.experiments.walk_forward import walk_forward as run

    with progress() as on_progress:
        found = run(recipe(name), rows, folder, first, weeks, on_progress)
    print_json({"recipe": name, "weeks": found})
