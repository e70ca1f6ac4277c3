"""python -m lab.public_data: lab/public-data.md has the data sets and figures.

Each command converts, backfills in an embedded Flink, trains and measures. The last line is JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from benchmarks.support.report import describe
from cli.progress import progress
from lab.public_data import baskets, next_basket, pipeline, rel_hm
from lab.public_data import rosbank as bank
from liveprofile.errors import LiveprofileError
from liveprofile.progress import Progress
from liveprofile.resources import product_path

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(help="Folder of the files as published.")]
Work = Annotated[
    Path,
    typer.Option("--work", help="Folder for rows and model; what it has is used again."),
]


@app.command()
def instacart(folder: Folder, work: Work) -> None:
    """Rank the last order of each user among the first tenth of Instacart's users."""
    _report("instacart", work, lambda step: _baskets(baskets.read_instacart(folder), work, step))


@app.command("baskets")
def published_baskets(
    history: Annotated[Path, typer.Argument(help="NAME_history.json of Li et al. 2023.")],
    future: Annotated[Path, typer.Argument(help="NAME_future.json of Li et al. 2023.")],
    work: Work,
) -> None:
    """Rank the last basket of each user of a data set as Li et al. 2023 prepared it."""

    def measure(on_progress: Progress) -> dict[str, Any]:
        return _baskets(baskets.read_published_baskets(history, future), work, on_progress)

    _report(history.stem.removesuffix("_history"), work, measure)


@app.command()
def rosbank(folder: Folder, work: Work) -> None:
    """Measure the churn of Rosbank's clients from their stored profiles."""

    def measure(on_progress: Progress) -> dict[str, Any]:
        file = folder / "train.csv"
        labels = bank.read_labels(file)
        rows = pipeline.training_rows(file, work, product_path("mappings/rosbank.toml"))
        checkpoint = pipeline.trained_model(bank.RECIPE, rows, work, on_progress)
        profiles = bank.stored_profiles(bank.RECIPE, rows, checkpoint, on_progress)
        return bank.measure(profiles, labels)

    _report("rosbank", work, measure)


@app.command("rel-hm")
def hm(folder: Folder, work: Work) -> None:
    """Measure RelBench's task user-churn on rel-hm. FOLDER has db/ and tasks/."""

    def measure(on_progress: Progress) -> dict[str, Any]:
        for part in rel_hm.PARTS:
            rel_hm.read_task(folder, part)  # before hours of work
        file = folder / "db" / "transactions.parquet"
        rows = pipeline.training_rows(file, work, product_path("mappings/rel_hm.toml"))
        checkpoint = pipeline.trained_model(rel_hm.RECIPE, rows, work, on_progress)
        return rel_hm.measure(folder, rows, checkpoint, on_progress)

    _report("rel-hm", work, measure)


def _baskets(lines: pd.DataFrame, work: Path, on_progress: Progress) -> dict[str, Any]:
    events = work / "events.jsonl"
    baskets.write_events(lines, events)
    rows = pipeline.training_rows(events, work)
    checkpoint = pipeline.trained_model(baskets.RECIPE, rows, work, on_progress)
    return next_basket.measure(baskets.RECIPE, rows, checkpoint, on_progress)


def _report(name: str, work: Path, measure: Callable[[Progress], dict[str, Any]]) -> None:
    """Prints the figures as one line of JSON, or the error as one line."""
    work.mkdir(parents=True, exist_ok=True)
    try:
        with progress() as on_progress:
            figures = measure(on_progress)
    except LiveprofileError as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    print(json.dumps({"data": name, **figures, **describe()}))


if __name__ == "__main__":
    app()
