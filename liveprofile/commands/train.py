"""`liveprofile train RECIPE`: one subcommand a recipe; the last line is JSON where --json asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from liveprofile.commands.common import JsonOption, print_fields, print_json
from models import Progress
from models.recipes import RECIPES, recipe

train = typer.Typer(
    name="train",
    no_args_is_help=True,
    help="Train a model; each command is a recipe. A run is repeatable: the same data, recipe,"
    " versions and processor give the same result.",
)


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar on stderr for each stage."""
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TextColumn("{task.completed}/{task.total}"),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True)) as bar:
        stages = {}

        def on_progress(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bar.add_task(stage, total=total)
            bar.update(stages[stage], completed=done, total=total)

        yield on_progress


def _profile(name: str) -> Callable[..., None]:
    def command(
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
        import dataclasses

        from models.train import train as run

        chosen = recipe(name)
        if epochs is not None:
            chosen = dataclasses.replace(chosen, epochs=epochs)
        with progress() as on_progress:
            card = run(chosen, rows, out, on_progress)
        if not as_json:
            print_fields({"version": card["version"], "folder": out, **_summary(card["metrics"])})
        else:
            print_json({"version": card["version"], "folder": str(out), **card["metrics"]})

    return command


for _recipe in RECIPES.values():
    train.command(
        _recipe.name,
        help=f"The profile's model, on the rows of a backfill; horizon {_recipe.horizon_days}"
        " days. Point the setting model.checkpoint at the folder to serve it.",
    )(_profile(_recipe.name))


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


def _day(flag: str, meaning: str) -> Any:
    return typer.Option(flag, formats=["%Y-%m-%d"], metavar="DAY", help=meaning)


@train.command("next-item")
def next_item(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The users' sequences of items.")],
    format_: Annotated[
        Literal["s3rec"], typer.Option("--format", help="s3rec: a line is a user and its items.")
    ] = "s3rec",
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="At most so many.")] = None,
) -> None:
    """The item that a user takes next, among all that this user has not had.

    The last item of each user is the test, the one before it validation. The last line is JSON.
    """
    import dataclasses

    from models.nextitem.data import READERS
    from models.nextitem.train import Recipe
    from models.nextitem.train import train as run

    chosen = Recipe() if epochs is None else dataclasses.replace(Recipe(), epochs=epochs)
    with progress() as on_progress:
        report = run(READERS[format_](file), chosen, on_progress)
    print_json({"recipe": "next-item", **report})


@train.command()
def fraud(
    data: Annotated[
        Path,
        typer.Option("--data", metavar="FILE", help="Parquet with the Fraud Handbook's columns."),
    ],
    train_start: Annotated[datetime, _day("--train-start", "First day to train on.")],
    train_end: Annotated[datetime, _day("--train-end", "Last day to train on, inclusive.")],
    test_start: Annotated[datetime, _day("--test-start", "First day to test on.")],
    test_end: Annotated[datetime, _day("--test-end", "Last day to test on, inclusive.")],
    delay_days: Annotated[
        int, typer.Option("--delay-days", min=0, help="Until a transaction's label is known.")
    ] = 7,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to write the model.")
    ] = None,
) -> None:
    """Frauds among card transactions, by what is known of the card and the terminal.

    Hyperparameters are chosen on an earlier period of the same shape. Cards that are known to be
    compromised are not tested. The last line is JSON.
    """
    from models.fraud.data import Period, read
    from models.fraud.train import train as run

    period = Period.of(
        train_start.date(), train_end.date(), delay_days, test_start.date(), test_end.date()
    )
    with progress() as on_progress:
        report = run(read(data), period, out, on_progress)
    print_json({"recipe": "fraud", **report})
