"""`liveprofile evaluate RECIPE`: a checkpoint beside its baselines; the last line is JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from liveprofile.commands.common import print_json
from liveprofile.commands.train import progress
from models.recipes import recipe


def evaluate(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="How the rows are parted.")],
    rows: Annotated[
        Path,
        typer.Option("--rows", metavar="PATH", help="Parquet file or folder of a backfill."),
    ],
    folder: Annotated[
        Path, typer.Option("--checkpoint", metavar="FOLDER", help="What liveprofile train wrote.")
    ],
    part: Annotated[
        Literal["validation", "test"],
        typer.Option("--part", help="Choose by validation; look at the test once."),
    ] = "test",
) -> None:
    """Measure a checkpoint on rows that it was not trained on, beside every baseline.

    Next category and next item, churn and spend; each difference with a bootstrap interval over
    users. The last line is JSON.
    """
    from models.report import report

    with progress() as on_progress:
        found = report(recipe(name), rows, folder, part, on_progress)
    print_json({"recipe": name, **found})
