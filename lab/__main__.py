"""python -m lab: studies that the product does not need; docs/model.md has their results.

The last line of each command is JSON. Other studies are modules of their own: lab.public_data,
lab.orders.order_frauds, lab.users.coupon_response, lab.user_model.value_curves,
lab.card_transactions.walk_forward, lab.simulated.train.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.load.workload import Workload
from benchmarks.support.report import USERS, report, report_on_stack
from cli.common import print_json, read_user_ids
from cli.learning.train import DeviceOption, RowsOption
from cli.progress import progress
from lab.card_transactions.data import ColumnNames
from lab.next_item.readers import READERS
from lab.options import (
    TEST_LOG,
    CheckpointOption,
    OptionalOutFolderOption,
    ParamsOption,
    PartOption,
    RecipeArgument,
    SequencesArgument,
    SequencesFormatOption,
    TestLogOption,
    TransactionsArgument,
    day_option,
)
from liveprofile.errors import InputError, LiveprofileError
from liveprofile.progress import Progress
from liveprofile.resources import product_path
from models.profile.recipes import override_from_toml, recipe

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
next_item = typer.Typer(no_args_is_help=True, help="Rank the items that a user takes next.")
cards = typer.Typer(no_args_is_help=True, help="Frauds among the Handbook's card transactions.")
app.add_typer(next_item, name="next-item")
app.add_typer(cards, name="cards")


def _measured(
    name: str, part: str, test_log: Path, measure: Callable[[Progress], dict[str, Any]]
) -> None:
    """Prints the report; one on the test part is logged before."""
    from models.profile.evaluation.served import logged

    def run() -> dict[str, Any]:
        with progress() as on_progress:
            return measure(on_progress)

    figures = run() if part == "validation" else logged(test_log, name, run)
    print_json({"recipe": name, **figures})


@app.command()
def evaluate(
    name: RecipeArgument,
    rows: RowsOption,
    folder: CheckpointOption,
    part: PartOption = "validation",
    test_log: TestLogOption = TEST_LOG,
) -> None:
    """Compare what a user model serves with the product's and the published baseline models."""
    from lab.baselines import next_basket, values
    from lab.baselines.values import bgnbd
    from models.profile.evaluation.served import checkpoint_report

    _measured(
        name,
        part,
        test_log,
        lambda on_progress: checkpoint_report(
            recipe(name),
            rows,
            folder,
            part,
            on_progress,
            next_basket.rank_published,
            partial(values.fit_moments, models={**values.MODELS, "bg_nbd": bgnbd.predictions}),
        ),
    )


@app.command("event-risk")
def event_risk(
    seed: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Seed of a simulated shop that the model has not seen."),
    ] = None,
    users: Annotated[int, typer.Option(min=1, help="Users per simulated shop.")] = 2_500,
    days: Annotated[int, typer.Option(min=1, help="Days per simulated shop.")] = 45,
) -> None:
    """Compare the rules, the fraud model and both together on simulated shops.

    The result has, for several numbers of alerts per day, the recall per kind of fraud and the
    false alarms per kind of legitimate change (changed habits, crowds).
    """
    from lab.simulated.rules_and_model import SEEDS, compare_rules_and_model
    from liveprofile.rules.rules import read_rules
    from liveprofile.settings import load
    from models.fraud.model import FraudModel

    settings = load()
    model = FraudModel.load(product_path(settings.scoring.checkpoint))
    rules = read_rules(product_path(settings.rules))
    with progress() as on_progress:
        result = compare_rules_and_model(
            model, rules, seed or SEEDS, users, days, on_progress=on_progress
        )
    print_json({"recipe": "event-risk", **result})


@app.command()
def membership(
    rows: RowsOption,
    folder: CheckpointOption,
    name: Annotated[str, typer.Option("--recipe", help="Recipe of the checkpoint.")] = "general",
    unseen: Annotated[
        Path | None,
        typer.Option(
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
    """
    from lab.user_model.membership import membership_report

    users = read_user_ids(unseen, "--unseen") if unseen else ()
    with progress() as on_progress:
        result = membership_report(recipe(name), rows, folder, users, on_progress)
    print_json({"recipe": name, **result})


@app.command("walk-forward")
def walk_forward(
    name: RecipeArgument,
    rows: RowsOption,
    folder: CheckpointOption,
    first: Annotated[datetime, day_option("--from", "First day of week 1 (UTC).")],
    weeks: Annotated[int, typer.Option(min=1, help="Number of weeks.")] = 4,
) -> None:
    """Compare, week by week, a fixed user model with one trained on the weeks before.

    Both rank the events of a week before training on it.
    """
    from lab.user_model.walk_forward import walk_forward as run

    with progress() as on_progress:
        result = run(recipe(name), rows, folder, first, weeks, on_progress)
    print_json({"recipe": name, "weeks": result})


@app.command()
def checkpoints(
    checkpoint: Annotated[
        list[Path],
        typer.Option(help="Model checkpoint folder; repeatable, the first is the reference."),
    ],
    rows: RowsOption,
    name: Annotated[str, typer.Option("--recipe")] = "complete-journey",
    windows: Annotated[int, typer.Option(min=100, help="Validation windows to sample.")] = 3_000,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of timing.")] = 5,
) -> None:
    """Compare user models and compressed forms of them: size, speed and quality by head."""
    from lab.user_model.model_table import models, table

    workload = Workload.of(100_000, USERS)

    def measure() -> dict[str, Any]:
        result = models(checkpoint, rows, recipe(name), workload, windows, repeats)
        typer.echo(table(result))
        return result

    report("checkpoints", workload, measure)


@next_item.command("train")
def train_next_item(
    file: SequencesArgument,
    format_: SequencesFormatOption = "s3rec",
    epochs: Annotated[int | None, typer.Option(min=1, help="Maximum number of epochs.")] = None,
    params: ParamsOption = None,
    device: DeviceOption = "auto",
    out: OptionalOutFolderOption = None,
) -> None:
    """Train a model that ranks the items a user takes next, among all items new to the user.

    The last item of each user is the test part, the one before it the validation part.
    """
    from lab.next_item.train import NextItemRecipe, train

    chosen = NextItemRecipe()
    if params is not None:
        chosen = override_from_toml(chosen, params)
    if epochs is not None:
        chosen = dataclasses.replace(chosen, epochs=epochs)
    with progress() as on_progress:
        result = train(_sequences(file, format_), chosen, out, on_progress, device)
    print_json({"recipe": "next-item", **result})


@next_item.command("evaluate")
def evaluate_next_item(
    file: SequencesArgument, folder: CheckpointOption, format_: SequencesFormatOption = "s3rec"
) -> None:
    """Measure a saved model on each user's last item (test) and the one before it (validation).

    The model must know all items of FILE. `same_data` in the result is true if the model was
    trained on FILE.
    """
    from lab.next_item.train import evaluate

    print_json({"recipe": "next-item", **evaluate(folder, _sequences(file, format_))})


def _sequences(file: Path, format_: str) -> Any:
    if format_ not in READERS:
        raise InputError(f"--format {format_}: one of {', '.join(READERS)}")
    return READERS[format_](file)


def parse_columns(options: list[str] | None) -> ColumnNames:
    """Parses the values of --column. Raises InputError for a value that is not FIELD=NAME."""
    pairs = [text.partition("=") for text in options or ()]
    for field, _, name in pairs:
        if field not in ColumnNames._fields or not name:
            raise InputError(
                f"--column {field}={name}: FIELD=NAME with one of {', '.join(ColumnNames._fields)}"
            )
    return ColumnNames()._replace(**{field: name for field, _, name in pairs})


@cards.command("train")
def train_cards(
    file: TransactionsArgument,
    train_start: Annotated[datetime, day_option("--train-start", "First day of the training.")],
    train_end: Annotated[datetime, day_option("--train-end", "Last day of the training.")],
    test_start: Annotated[datetime, day_option("--test-start", "First day of the test.")],
    test_end: Annotated[datetime, day_option("--test-end", "Last day of the test.")],
    delay_days: Annotated[
        int, typer.Option(min=0, help="Days from a transaction until its label is known.")
    ] = 7,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=NAME",
            help="The file's column for id, time, card, terminal, amount or fraud, if it differs"
            " from the Handbook's; repeatable.",
        ),
    ] = None,
    out: OptionalOutFolderOption = None,
) -> None:
    """Train the fraud model and baseline models on card transactions of the Handbook.

    A card is a user, a terminal a shop. The model uses the features of the job, the baseline
    models those of the Fraud Detection Handbook, and then those of the job. Hyperparameters are
    chosen on an earlier period of the same length. The test excludes cards that are known to be
    compromised.
    """
    from lab.card_transactions.baselines import evaluate_baselines
    from lab.card_transactions.data import TrainTestPeriod, read_transactions
    from lab.card_transactions.features import handbook_features
    from lab.card_transactions.train_handbook import JobFeatures, train_handbook

    period = TrainTestPeriod.from_dates(
        train_start.date(), train_end.date(), delay_days, test_start.date(), test_end.date()
    )
    with progress() as on_progress:
        transactions = read_transactions(file, parse_columns(column))
        result = train_handbook(transactions, period, out, on_progress)
        x_NF = handbook_features(transactions, delay_days)
        result["baselines"] = evaluate_baselines(
            transactions, period, lambda rows: x_NF[rows], on_progress
        )
        result["baselines_with_features_of_the_job"] = evaluate_baselines(
            transactions, period, JobFeatures(transactions, delay_days, on_progress), on_progress
        )
    print_json({"recipe": "event-risk-handbook", **result})


@cards.command()
def replay(
    file: TransactionsArgument,
    first: Annotated[
        datetime, day_option("--first", "First day of the training and of the replay.")
    ] = datetime(2018, 6, 20),
) -> None:
    """Compare the job's stored scores for the Handbook's test week with the offline scores."""
    from lab.card_transactions.data import TrainTestPeriod
    from lab.card_transactions.replay import card_frauds

    period = TrainTestPeriod.from_dates(
        date(2018, 7, 25), date(2018, 7, 31), 7, date(2018, 8, 8), date(2018, 8, 14)
    )
    report_on_stack(
        "card-frauds", None, lambda stack: card_frauds(stack, file, first.date(), period)
    )


def main() -> None:
    try:
        app()
    except LiveprofileError as error:
        sys.stderr.write(f"lab: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
