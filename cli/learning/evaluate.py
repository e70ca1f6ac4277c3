"""`liveprofile evaluate RECIPE`: a model beside its baselines; the last line is JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.common import print_json
from cli.learning.train import DaysOption, SequencesArgument, SequencesOption, UsersOption
from cli.progress import progress
from liveprofile.config import ScoringSettings, Settings
from liveprofile.resources import product_path
from models.profile.recipes import RECIPES, recipe

evaluate = typer.Typer(
    name="evaluate",
    no_args_is_help=True,
    help="Measure a model on data that it was not trained on, beside what it must beat; each"
    " command is a recipe of `liveprofile train`.",
)


def _profile(name: str) -> Callable[..., None]:
    def command(
        rows: Annotated[
            Path,
            typer.Option("--rows", metavar="PATH", help="Parquet file or folder of a backfill."),
        ],
        folder: Annotated[
            Path,
            typer.Option("--checkpoint", metavar="FOLDER", help="What liveprofile train wrote."),
        ],
        part: Annotated[
            Literal["validation", "test"],
            typer.Option("--part", help="Choose by validation; look at the test once."),
        ] = "test",
    ) -> None:
        from models.profile.experiments.report import report

        with progress() as on_progress:
            found = report(recipe(name), rows, folder, part, on_progress)
        print_json({"recipe": name, **found})

    return command


for _recipe in RECIPES.values():
    evaluate.command(
        _recipe.name,
        help="A profile's model beside every baseline: next category and next item, churn and"
        " spend, each difference with a bootstrap interval over users.",
    )(_profile(_recipe.name))


@evaluate.command("next-item")
def next_item(
    file: SequencesArgument,
    folder: Annotated[
        Path,
        typer.Option("--checkpoint", metavar="FOLDER", help="What train next-item --out wrote."),
    ],
    format_: SequencesOption = "s3rec",
) -> None:
    """A saved next-item model on each user's last item (test) and the one before it (validation).

    All items of FILE must be the model's. `same_data` tells whether it is what it was trained on.
    """
    from models.next_item.data import READERS
    from models.next_item.train import evaluate as run

    print_json({"recipe": "next-item", **run(folder, READERS[format_](file))})


@evaluate.command("event-risk")
def event_risk(
    folder: Annotated[
        Path, typer.Option("--checkpoint", metavar="FOLDER", help="What liveprofile train wrote.")
    ] = ScoringSettings.model_fields["checkpoint"].default,
    rules: Annotated[
        Path, typer.Option("--rules", metavar="FILE", help="The rules to set beside it.")
    ] = Settings.model_fields["rules"].default,
    seed: Annotated[
        list[int] | None,
        typer.Option("--seed", min=0, help="A shop that the model has not seen; repeat it."),
    ] = None,
    users: UsersOption = 2_500,
    days: DaysOption = 45,
    warm_up_days: Annotated[
        int, typer.Option("--warm-up-days", min=0, help="Of these, how many only fill the lists.")
    ] = 14,
) -> None:
    """The event lane's rules, its model and both, on generated shops: what so many alerts a day
    find of each kind of fraud, and which honest changes of habit and crowds they take for one."""
    from liveprofile.rules.rules import read_rules
    from models.fraud.model import EventModel
    from models.fraud.training.evaluate import SEEDS, compare

    model, judged_by = EventModel.load(product_path(folder)), read_rules(product_path(rules))
    with progress() as on_progress:
        found = compare(
            model, judged_by, seed or SEEDS, users, days, warm_up_days, on_progress=on_progress
        )
    print_json({"recipe": "event-risk", **found})
