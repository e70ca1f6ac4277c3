"""`liveprofile train`: a checkpoint from a backfill's rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from liveprofile.commands.common import JsonOption, print_fields, print_json


def train(
    recipe: Annotated[
        str, typer.Argument(help="Named recipe, such as complete-journey, general, general-7-days.")
    ],
    rows: Annotated[
        Path,
        typer.Option(
            "--rows", metavar="PATH", help="Parquet file or folder that the backfill wrote."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Folder to write the checkpoint to.")
    ],
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", min=1, help="At most so many, instead of the recipe's."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train the model on the rows of a backfill; the last line printed is its metrics.

    A run is repeatable: the same rows, recipe, versions and processor give the same weights. Point
    the setting model.checkpoint at the folder to serve it.
    """
    import dataclasses

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from models.recipes import recipe as named
    from models.train import train as run

    chosen = named(recipe)
    if epochs is not None:
        chosen = dataclasses.replace(chosen, epochs=epochs)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
    )
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        stages = {}

        def on_progress(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bar.add_task(stage, total=total)
            bar.update(stages[stage], completed=done, total=total)

        card = run(chosen, rows, out, on_progress)
    if not as_json:
        print_fields({"version": card["version"], "folder": out, **_summary(card["metrics"])})
    else:
        print_json({"version": card["version"], "folder": str(out), **card["metrics"]})


def _summary(metrics: dict) -> dict:
    category = metrics["test"]["next_event"]["category"]
    churn, spend = metrics["test"]["churn"] or {}, metrics["test"]["spend"] or {}
    return {
        "epochs": f"{metrics['epochs']}, best {metrics['best_epoch']}",
        "seconds": metrics["seconds"],
        "next category NDCG@10": category["model"]["ndcg_at_10"],
        "  by popularity": category["popularity"]["ndcg_at_10"],
        "  by the user's past": category["user_frequency"]["ndcg_at_10"],
        "churn AUC": churn.get("auc"),
        "spend MAE": spend.get("mae"),
    }
