"""Compares a model with baseline models; the last line is JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.common import print_json, read_user_ids
from cli.learning.options import (
    TEST_LOG,
    CheckpointOption,
    PartOption,
    RowsOption,
    SequencesArgument,
    SequencesFormatOption,
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
        from models.profile.evaluation import look_log
        from models.profile.experiments.checkpoint_report import checkpoint_report

        def measure() -> dict[str, Any]:
            with progress() as on_progress:
                return checkpoint_report(recipe(name), rows, folder, part, on_progress)

        report = measure() if part == "validation" else look_log.logged(test_log, name, measure)
        print_json({"recipe": name, **report})

    return command


for _recipe in RECIPES.values():
    evaluate.command(
        _recipe.name,
        help="Compare what a user model serves with every baseline model: the stored items and"
        " categories with the user's next window, and churn, spend and time to the next purchase at"
        " any time. Each difference has a bootstrap interval over users. The last line is JSON."
        f"\n\nExample: `liveprofile model evaluate {_recipe.name} --rows rows"
        " --checkpoint models/shop-1`",
    )(_profile_command(_recipe.name))


@evaluate.command("next-item")
def next_item(
    file: SequencesArgument,
    folder: Annotated[
        Path,
        typer.Option(
            "--checkpoint",
            metavar="FOLDER",
            help="Model checkpoint that `train next-item --out` wrote.",
        ),
    ],
    format_: SequencesFormatOption = "s3rec",
) -> None:
    """Measure a saved next-item model on each user's last item (test) and the one before it.

    The item before the last is the validation part. The model must know all items of FILE.
    `same_data` in the result is true if the model was trained on FILE. The last line is JSON.

    Example: `liveprofile model evaluate next-item sequences.txt --checkpoint models/next-item`
    """
    from models.next_item.readers import READERS
    from models.next_item.train import evaluate as evaluate_model

    print_json({"recipe": "next-item", **evaluate_model(folder, READERS[format_](file))})


@evaluate.command("membership")
def membership(
    rows: RowsOption,
    folder: CheckpointOption,
    name: Annotated[
        str, typer.Option("--recipe", metavar="RECIPE", help="Recipe of the checkpoint.")
    ] = "general",
    unseen: Annotated[
        Path | None,
        typer.Option(
            "--unseen",
            metavar="FILE",
            help="Users of the rows who are not in the training: ids, one a line. Default: those"
            " whom the checkpoint's file of trained users does not know.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Test whether a user model's losses reveal which users it was trained on.

    ROWS need users of the training and others, alike except for that: train a model with
    `--without FILE` on a random choice of users. An AUC of 0.5 reveals nothing (docs/privacy.md).
    The last line is JSON.

    Example: `liveprofile model evaluate membership --rows rows --checkpoint models/half`
    """
    from models.profile.evaluation.membership import membership_report

    users = read_user_ids(unseen, "--unseen") if unseen else ()
    with progress() as on_progress:
        report = membership_report(recipe(name), rows, folder, users, on_progress)
    print_json({"recipe": name, **report})


@evaluate.command("event-risk")
def event_risk(
    folder: CheckpointOption = ScoringSettings.model_fields["checkpoint"].default,
    rules: Annotated[
        Path, typer.Option("--rules", metavar="FILE", help="Rules file to compare with (TOML).")
    ] = Settings.model_fields["rules"].default,
    seed: Annotated[
        list[int] | None,
        typer.Option(
            "--seed",
            min=0,
            help="Seed of a simulated shop that the model has not seen; repeatable.",
        ),
    ] = None,
    users: ShopUsersOption = 2_500,
    days: ShopDaysOption = 45,
    warm_up_days: Annotated[
        int,
        typer.Option(
            "--warm-up-days", min=0, help="First days of a shop, which only fill the entity lists."
        ),
    ] = 14,
) -> None:
    """Compare the rules, the fraud model and both together on simulated shops.

    The result has, for several numbers of alerts per day, the recall per kind of fraud and the
    false alarms per kind of legitimate change (changed habits, crowds). The last line is JSON.

    Example: `liveprofile model evaluate event-risk --seed 7`
    """
    from liveprofile.rules.rules import read_rules
    from models.fraud.model import FraudModel
    from models.fraud.training.evaluate import SEEDS, compare_rules_and_model

    model, rule_set = FraudModel.load(product_path(folder)), read_rules(product_path(rules))
    with progress() as on_progress:
        report = compare_rules_and_model(
            model, rule_set, seed or SEEDS, users, days, warm_up_days, on_progress=on_progress
        )
    print_json({"recipe": "event-risk", **report})
