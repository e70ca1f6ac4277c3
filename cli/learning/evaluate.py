"""Compares a user model with baseline models; the last line is JSON."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cli.common import print_json
from cli.learning.train import RowsOption
from cli.progress import progress
from models.profile.recipes import recipe


def evaluate(
    name: Annotated[str, typer.Argument()],
    rows: RowsOption,
    checkpoint: Annotated[Path, typer.Option()],
    part: Literal["validation", "test"] = "validation",
    test_log: Path = Path("test-looks.jsonl"),
) -> None:
    """Measure what a user model serves on data that it was not trained on, beside baseline models.

    The stored items and categories are compared with the user's next window; churn, spend and time
    to the next purchase with what follows, at any time. Each difference has a bootstrap interval
    over users. The last line is JSON.

    Example: `liveprofile model evaluate general --rows rows --checkpoint shop-1`

    Options:
    name RECIPE: Recipe of `liveprofile model train` that the model was trained with.
    checkpoint FOLDER: Model checkpoint that `liveprofile model train` wrote.
    part: Part of the rows: validation to compare choices, test for the final result.
    test_log FILE: With --part test: the JSON-lines file to which this look at the test part is
        appended (date, commit, recipe, figures).
    """
    chosen = recipe(name)
    from models.profile.evaluation.served import checkpoint_report, logged

    def measure() -> dict[str, Any]:
        with progress() as on_progress:
            return checkpoint_report(chosen, rows, checkpoint, part, on_progress)

    report = measure() if part == "validation" else logged(test_log, name, measure)
    print_json({"recipe": name, **report})
