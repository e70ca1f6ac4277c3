"""`liveprofile tune RECIPE`: hyperparameters for a profile's model, chosen on validation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.common import JsonOption, print_fields, print_json
from cli.progress import note, progress
from models.profile.recipes import recipe


def tune(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="As of liveprofile train.")],
    rows: Annotated[
        Path,
        typer.Option(metavar="PATH", help="Parquet file or folder that the backfill wrote."),
    ],
    study: Annotated[
        Path,
        typer.Option(
            metavar="FILE.db", help="SQLite file; one that is there goes on where it was."
        ),
    ],
    trials: Annotated[
        int, typer.Option(min=1, help="How many the study then has, those before included.")
    ],
    epochs: Annotated[
        int | None, typer.Option(min=1, help="At most so many a trial, instead of the recipe's.")
    ] = None,
    params: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Where the best values go, for liveprofile train RECIPE --params. Default: beside"
            " the study, .toml.",
        ),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto: a card where there is one.")
    ] = "auto",
    json: JsonOption = False,
) -> None:
    """Search a recipe's hyperparameters: trials by Optuna, each judged on validation.

    The first trial has the recipe's own values. Run one process a study at a time.
    """
    chosen = recipe(name)
    if epochs is not None:
        chosen = dataclasses.replace(chosen, epochs=epochs)
    from models.profile.training.tune import tune as run
    from models.profile.training.tune import write_params

    with progress() as on_progress:
        best = run(chosen, rows, study, trials, on_progress, note, device=device)
    params = params or study.with_suffix(".toml")
    write_params(params, chosen, best)
    result = {**best._asdict(), "file": str(params)}
    if json:
        print_json(result)
    else:
        print_fields({**result.pop("params"), **result})
