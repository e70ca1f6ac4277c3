"""Compares a model with baseline models; the last line is JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.common import print_json
from cli.learning.options import (
    TEST_LOG,
    CheckpointOption,
    PartOption,
    RowsOption,
    ShopDaysOption,
    ShopUsersOption,
    TestLogOption,
)
from cli.options import Commands
from cli.progress import progress
from liveprofile.resources import product_path
from liveprofile.settings import ScoringSettings, Settings
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


@evaluate.command("event-risk")
def event_risk(
    folder: CheckpointOption = ScoringSettings.model_fields["checkpoint"].default,
    rules: Path = Settings.model_fields["rules"].default,
    seed: Annotated[list[int] | None, typer.Option(min=0)] = None,
    users: ShopUsersOption = 2_500,
    days: ShopDaysOption = 45,
) -> None:
    """Compare the rules, the fraud model and both together on simulated shops.

    The result has, for several numbers of alerts per day, the recall per kind of fraud and the
    false alarms per kind of legitimate change (changed habits, crowds). The last line is JSON.

    Example: `liveprofile model evaluate event-risk --seed 7`

    Options:
    rules FILE: Rules file to compare with (TOML).
    seed: Seed of a simulated shop that the model has not seen; repeatable.
    """
    from liveprofile.rules.rules import read_rules
    from models.fraud.model import FraudModel
    from models.fraud.training.evaluate import SEEDS, compare_rules_and_model

    model, rule_set = FraudModel.load(product_path(folder)), read_rules(product_path(rules))
    with progress() as on_progress:
        report = compare_rules_and_model(
            model, rule_set, seed or SEEDS, users, days, on_progress=on_progress
        )
    print_json({"recipe": "event-risk", **report})
