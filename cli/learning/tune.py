"""Searches the hyperparameters of a user model on validation data."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from cli.common import JsonCall
from cli.learning.train import DeviceOption, RowsOption
from cli.progress import print_line, progress
from models.profile.recipes import recipe


def tune(
    call: JsonCall,
    name: Annotated[str, typer.Argument()],
    rows: RowsOption,
    study: Annotated[Path, typer.Option()],
    trials: Annotated[int, typer.Option(min=1)],
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    params: Path | None = None,
    device: DeviceOption = "auto",
) -> None:
    """Search a recipe's hyperparameters with Optuna; each trial is measured on validation data.

    The first trial uses the recipe's own values. Run one process per study at a time.

    Example: `liveprofile model tune general --rows rows --study general.db --trials 20`

    Options:
    name RECIPE: Recipe of `liveprofile model train` to tune.
    study FILE.db: SQLite file of the Optuna study; an existing study is continued.
    trials: Total number of trials in the study, earlier ones included.
    epochs: Maximum number of epochs per trial. Default: the recipe's.
    params FILE: File for the best values (TOML), for `liveprofile model train RECIPE --params`.
        Default: the study's path with the suffix .toml.
    """
    chosen = recipe(name)
    if epochs is not None:
        chosen = dataclasses.replace(chosen, epochs=epochs)
    from models.profile.training.tune import tune as run
    from models.profile.training.tune import write_params

    with progress() as on_progress:
        best = run(chosen, rows, study, trials, on_progress, print_line, device=device)
    params = params or study.with_suffix(".toml")
    write_params(params, chosen, best)
    result = {**best._asdict(), "file": str(params)}
    call.print(result, best.params | {name: result[name] for name in result if name != "params"})
