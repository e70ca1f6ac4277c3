"""Compares a model with baseline models; the last line is JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cli.common import print_json
from cli.learning.options import (
    TEST_LOG,
    CheckpointOption,
    PartOption,
    RowsOption,
    TestLogOption,
)
from cli.options import Commands
from cli.progress import progress
from models.profile.recipes import RECIPES, recipe

evaluate = Commands(
    name="evaluate",
    help="Measure a model on data that it was not trained on and compare it with baseline models;"
    " each command is a recipe of `liveprofile model train`.",
)


def _profile_command(name: str) -> Callable[..., None]:
    def command(
        rows: RowsOption,
        folder: CheckpointOption,
        part: PartOption = "validation",
        test_log: TestLogOption = TEST_LOG,
    ) -> None:
        from models.profile.evaluation.served import checkpoint_report, logged

        def measure() -> dict[str, Any]:
            with progress() as on_progress:
                return checkpoint_report(recipe(name), rows, folder, part, on_progress)

        report = measure() if part == "validation" else logged(test_log, name, measure)
        print_json({"recipe": name, **report})

    return command


for _recipe in RECIPES.values():
    evaluate.command(
        _recipe.name,
        help="Compare what a user model serves with baseline models: the stored items and"
        " categories with the user's next window, and churn, spend and time to the next purchase at"
        " any time. Each difference has a bootstrap interval over users. The last line is JSON."
        f"\n\nExample: `liveprofile model evaluate {_recipe.name} --rows rows"
        " --checkpoint models/shop-1`",
    )(_profile_command(_recipe.name))
