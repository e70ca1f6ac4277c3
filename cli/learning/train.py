"""`liveprofile train RECIPE`: one subcommand a recipe; the last line is JSON where --json asks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cli.common import ConfigOption, JsonOption, print_fields, print_json
from cli.learning import train_own as own
from cli.progress import note, progress
from liveprofile.errors import InputError
from models.profile.recipes import RECIPES, recipe, with_params

if TYPE_CHECKING:
    from models.fraud.card_transactions.data import Columns

train = typer.Typer(
    name="train",
    no_args_is_help=True,
    help="Train a model; each command is a recipe. On the CPU a run is repeatable: the same data,"
    " recipe, versions and processor give the same result.",
)


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
        params: Annotated[
            Path | None,
            typer.Option(
                "--params",
                metavar="FILE",
                help="TOML with values instead of the recipe's, as liveprofile tune writes it.",
            ),
        ] = None,
        teacher: Annotated[
            Path | None,
            typer.Option(
                "--teacher",
                metavar="FOLDER",
                help="A checkpoint to begin with and to learn the answers of.",
            ),
        ] = None,
        goes_on: Annotated[
            Path | None,
            typer.Option(
                "--continue",
                metavar="FOLDER",
                help="A checkpoint that learns what is new in the rows since its own training, and"
                " the items that are, without forgetting what it knew.",
            ),
        ] = None,
        texts: Annotated[
            bool,
            typer.Option(
                "--texts",
                help="Try what people wrote or searched for too: some milliseconds a text without"
                " a card. Serve it with the setting model.texts.",
            ),
        ] = False,
        fresh: Annotated[
            bool, typer.Option("--fresh", help="Not to go on where a killed training was.")
        ] = False,
        device: Annotated[
            Literal["auto", "cpu", "cuda"],
            typer.Option("--device", help="auto: a card where there is one."),
        ] = "auto",
        as_json: JsonOption = False,
    ) -> None:
        import dataclasses

        from models.profile.text_encoder import encode
        from models.profile.training.train import train as run

        if teacher is not None and goes_on is not None:
            raise InputError("--continue has a teacher already: itself; leave --teacher out")
        chosen = recipe(name)
        if params is not None:
            chosen = with_params(chosen, params)
        if epochs is not None:
            chosen = dataclasses.replace(chosen, epochs=epochs)
        with progress() as on_progress:
            card = run(
                chosen, rows, out, on_progress, note,
                fresh=fresh, device=device, teacher_folder=goes_on or teacher,
                goes_on=goes_on is not None, encode_texts=encode if texts else None,
            )  # fmt: skip
        if card is None:
            return
        if not as_json:
            print_fields({"version": card["version"], "folder": out, **_summary(card["metrics"])})
        else:
            print_json({"version": card["version"], "folder": str(out), **card["metrics"]})

    return command


for _recipe in RECIPES.values():
    train.command(
        _recipe.name,
        help=f"The profile's model, on the rows of a backfill; horizon {_recipe.horizon_days}"
        " days. Point the setting model.checkpoint at the folder to serve it. The same command"
        " goes on where a killed one was; torchrun --nproc-per-node N -m cli trains on"
        " several processes or cards.",
    )(_profile(_recipe.name))


def _summary(metrics: dict) -> dict:
    measured = metrics["validation"]
    events, churn, spend = measured["next_event"], measured["churn"], measured["spend"]
    return {
        "epochs": f"{metrics['epochs']}, best {metrics['best_epoch']}",
        "seconds": metrics["seconds"],
        **{
            f"next {name}, NDCG@10 on validation": ", ".join(
                f"{events[name][by]['ndcg_at_10']} {meaning}"
                for by, meaning in (
                    ("model", "model"),
                    ("user_frequency", "the user's own frequencies"),
                    ("popularity", "popularity"),
                )
            )
            for name in ("category", "item")
        },
        "churn AUC": churn and churn["model"]["auc"],
        "spend MAE": spend and spend["model"]["mae"],
    }


def _day(flag: str, meaning: str) -> Any:
    return typer.Option(flag, formats=["%Y-%m-%d"], metavar="DAY", help=meaning)


SequencesArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="The users' sequences of items.")
]
SequencesOption = Annotated[
    Literal["s3rec"], typer.Option("--format", help="s3rec: a line is a user and its items.")
]


@train.command("next-item")
def next_item(
    file: SequencesArgument,
    format_: SequencesOption = "s3rec",
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="At most so many.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Folder to write the model to.")
    ] = None,
) -> None:
    """The item that a user takes next, among all that this user has not had.

    The last item of each user is the test, the one before it validation. The last line is JSON.
    """
    import dataclasses

    from models.next_item.data import READERS
    from models.next_item.train import Recipe
    from models.next_item.train import train as run

    chosen = Recipe() if epochs is None else dataclasses.replace(Recipe(), epochs=epochs)
    with progress() as on_progress:
        report = run(READERS[format_](file), chosen, out, on_progress)
    print_json({"recipe": "next-item", **report})


DataOption = Annotated[
    Path,
    typer.Option("--data", metavar="FILE", help="Parquet with the Fraud Handbook's columns."),
]
TrainStartOption = Annotated[datetime, _day("--train-start", "First day to train on.")]
TrainEndOption = Annotated[datetime, _day("--train-end", "Last day to train on, inclusive.")]
TestStartOption = Annotated[datetime, _day("--test-start", "First day to test on.")]
TestEndOption = Annotated[datetime, _day("--test-end", "Last day to test on, inclusive.")]
DelayOption = Annotated[
    int, typer.Option("--delay-days", min=0, help="Until a transaction's label is known.")
]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="FIELD=NAME",
        help="The file's name for id, time, card, terminal, amount or fraud, where it is another"
        " than the Handbook's. Repeat it for more.",
    ),
]
UsersOption = Annotated[int, typer.Option("--users", min=1, help="Of each generated shop.")]
DaysOption = Annotated[int, typer.Option("--days", min=1, help="Of each generated shop.")]


def columns_of(named: list[str] | None) -> Columns:
    """Raises InputError for what is no FIELD=NAME."""
    from models.fraud.card_transactions.data import Columns

    pairs = [text.partition("=") for text in named or ()]
    for field, _, name in pairs:
        if field not in Columns._fields or not name:
            raise InputError(
                f"--column {field}={name}: FIELD=NAME with one of {', '.join(Columns._fields)}"
            )
    return Columns()._replace(**{field: name for field, _, name in pairs})


def _on_transactions(
    recipe: str,
    run: Callable[..., dict[str, Any]],
    data: Path,
    column: list[str] | None,
    days: tuple[datetime, datetime, int, datetime, datetime],
    out: Path | None,
) -> None:
    """days: the arguments of Period.of, in its order."""
    from models.fraud.card_transactions.data import Period, read

    train_start, train_end, delay_days, test_start, test_end = days
    period = Period.of(
        train_start.date(), train_end.date(), delay_days, test_start.date(), test_end.date()
    )
    with progress() as on_progress:
        report = run(read(data, columns_of(column)), period, out, on_progress)
    print_json({"recipe": recipe, **report})


@train.command()
def fraud(
    data: DataOption,
    train_start: TrainStartOption,
    train_end: TrainEndOption,
    test_start: TestStartOption,
    test_end: TestEndOption,
    delay_days: DelayOption = 7,
    column: ColumnOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to write the model.")
    ] = None,
) -> None:
    """Frauds among card transactions, by what is known of the card and the terminal.

    Hyperparameters are chosen on an earlier period of the same shape. Cards that are known to be
    compromised are not tested. The last line is JSON.
    """
    from models.fraud.card_transactions.train import train as run

    days = (train_start, train_end, delay_days, test_start, test_end)
    _on_transactions("fraud", run, data, column, days, out)


@train.command("event-risk")
def event_risk(
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Folder to write the model to.")
    ],
    users: UsersOption = 2_500,
    days: DaysOption = 45,
    train_seed: Annotated[
        list[int] | None,
        typer.Option("--train-seed", min=0, help="A shop to train on; repeat it for more."),
    ] = None,
    validation_seed: Annotated[
        list[int] | None,
        typer.Option("--validation-seed", min=0, help="A shop to choose and calibrate by."),
    ] = None,
    test_seed: Annotated[
        list[int] | None, typer.Option("--test-seed", min=0, help="A shop to measure on.")
    ] = None,
    rows: own.RowsOption = None,
    labels: own.LabelsOption = None,
    train_start: own.TrainStartOption = None,
    validation_start: own.ValidationStartOption = None,
    test_start: own.TestStartOption = None,
    test_end: own.TestEndOption = None,
    delay_days: own.DelayOption = 7.0,
    false_alarm_cost: own.FalseAlarmOption = 5.0,
    config: ConfigOption = None,
) -> None:
    """The event lane's model, on generated shops whose frauds are known; with --rows, on a shop's
    own events and labels.

    Without seeds the shops of the shipped model (models/fraud/training/train_simulated.py). Point the setting
    scoring.checkpoint at the folder to serve it. The last line is JSON.
    """
    import dataclasses

    from models.fraud.training.train_simulated import Recipe, train_generated

    split = own.Days(train_start, validation_start, test_start, test_end)
    if rows is None and (labels is not None or any(split)):
        raise InputError("--labels and days are of own events: they go with --rows")
    if rows is not None:
        with progress() as on_progress:
            report = own.train_own(
                rows, labels, split, delay_days, false_alarm_cost, out, config, on_progress
            )
        print_json({"recipe": "event-risk", **report})
        return
    named = {
        "train_seeds": train_seed, "validation_seeds": validation_seed, "test_seeds": test_seed
    }  # fmt: skip
    chosen = dataclasses.replace(
        Recipe().sized(users, days),
        **{name: tuple(seeds) for name, seeds in named.items() if seeds},
    )
    with progress() as on_progress:
        model = train_generated(chosen, out, on_progress)
    about = {
        name: model.about[name]
        for name in ("setting", "chosen_by", "thresholds", "validation", "test")
    }
    print_json({"recipe": "event-risk", "version": model.version, "folder": str(out), **about})


@train.command("event-risk-handbook")
def event_risk_handbook(
    data: DataOption,
    train_start: TrainStartOption,
    train_end: TrainEndOption,
    test_start: TestStartOption,
    test_end: TestEndOption,
    delay_days: DelayOption = 7,
    column: ColumnOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Folder to write the model to.")
    ] = None,
) -> None:
    """The event lane's model on card transactions: a card is a user, a terminal a shop.

    The protocol is that of `train fraud`, the features are those of the job. The last line is
    JSON.
    """
    from models.fraud.training.train_handbook import train as run

    days = (train_start, train_end, delay_days, test_start, test_end)
    _on_transactions("event-risk-handbook", run, data, column, days, out)
