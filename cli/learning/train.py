"""`liveprofile model train RECIPE`: trains a model; one subcommand per recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from cli.common import ConfigOption, JsonOption, print_fields, print_json
from cli.learning import own_events
from cli.learning.options import (
    DeviceOption,
    OutFolderOption,
    ParamsOption,
    RefitOption,
    RowsOption,
    ShopDaysOption,
    ShopUsersOption,
    WithoutErasedOption,
    WithoutOption,
    users_left_out,
)
from cli.options import Commands
from cli.progress import print_line, progress
from liveprofile.errors import InputError
from models.profile.recipes import RECIPES, override_from_toml, recipe

train = Commands(
    name="train",
    help="Train a model; each command is a recipe. Training on the CPU is deterministic: the same"
    " data, recipe, versions and processor give the same result.",
)


def _profile_command(name: str) -> Callable[..., None]:
    def command(
        rows: RowsOption,
        out: OutFolderOption,
        epochs: Annotated[
            int | None,
            typer.Option(
                "--epochs", min=1, help="Maximum number of epochs. Default: the recipe's."
            ),
        ] = None,
        params: ParamsOption = None,
        teacher: Annotated[
            Path | None,
            typer.Option(
                "--teacher", metavar="FOLDER", help="Model checkpoint to start from and to distil."
            ),
        ] = None,
        incremental: Annotated[
            Path | None,
            typer.Option(
                "--continue",
                metavar="FOLDER",
                help="Model checkpoint to train further on the rows after its own training, new"
                " items included; distillation keeps what it has learned.",
            ),
        ] = None,
        texts: Annotated[
            bool,
            typer.Option(
                "--texts",
                help="Also use review texts and search queries; encoding takes some milliseconds"
                " per text on a CPU. Serve such a model with the setting model.texts.",
            ),
        ] = False,
        refit: RefitOption = None,
        fresh: Annotated[
            bool, typer.Option("--fresh", help="Start over instead of resuming a killed training.")
        ] = False,
        without_erased: WithoutErasedOption = False,
        without: WithoutOption = None,
        device: DeviceOption = "auto",
        config: ConfigOption = None,
        as_json: JsonOption = False,
    ) -> None:
        import dataclasses

        from models.profile.text_encoder import encode
        from models.profile.training.train import train as run

        if teacher is not None and incremental is not None:
            raise InputError("--teacher: --continue uses its own checkpoint as the teacher")
        chosen = recipe(name)
        if params is not None:
            chosen = override_from_toml(chosen, params)
        if epochs is not None:
            chosen = dataclasses.replace(chosen, epochs=epochs)
        left_out = users_left_out(without_erased, without, config)
        if without_erased or without is not None:
            print_line(f"rows of {len(left_out)} users are left out, if there are any")
        with progress() as on_progress:
            card = run(
                chosen,
                rows,
                out,
                on_progress,
                print_line,
                fresh=fresh,
                device=device,
                teacher_folder=incremental or teacher,
                incremental=incremental is not None,
                encode_texts=encode if texts else None,
                without=left_out,
                refit=refit,
            )
        if card is None:  # a torchrun process other than the first
            return
        if not as_json:
            summary = _summary(card["metrics"])
            if refit:
                summary["refitted on windows until"] = (
                    f"{card['data']['train_until']}; the figures above are those before"
                )
            print_fields({"version": card["version"], "folder": out, **summary})
        else:
            print_json({"version": card["version"], "folder": str(out), **card["metrics"]})

    return command


for _recipe in RECIPES.values():
    train.command(
        _recipe.name,
        help=f"Train the user model on the rows of a backfill; forecast horizon"
        f" {_recipe.horizon_days} days. The setting model.checkpoint names the folder to serve."
        " The same command resumes a killed training. `torchrun --nproc-per-node N -m cli model"
        " train ...` trains on several processes or GPUs."
        f"\n\nExample: `liveprofile model train {_recipe.name} --rows rows --out models/shop-1`",
    )(_profile_command(_recipe.name))


def _summary(metrics: dict) -> dict:
    validation = metrics["validation"]
    events, churn, spend = validation["next_event"], validation["churn"], validation["spend"]
    return {
        "epochs": f"{metrics['epochs']}, best {metrics['best_epoch']}",
        "seconds": metrics["seconds"],
        **{
            f"next {name}, NDCG@10 on validation": events[name]["model"]["ndcg_at_10"]
            for name in ("category", "item")
            if "ndcg_at_10" in events[name]["model"]
        },
        "churn AUC": churn and churn["model"]["auc"],
        "spend MAE": spend and spend["model"]["mae"],
    }


@train.command("event-risk")
def event_risk(
    out: OutFolderOption,
    users: ShopUsersOption = 2_500,
    days: ShopDaysOption = 45,
    train_seed: Annotated[
        list[int] | None,
        typer.Option(
            "--train-seed", min=0, help="Seed of a simulated shop for training; repeatable."
        ),
    ] = None,
    validation_seed: Annotated[
        list[int] | None,
        typer.Option(
            "--validation-seed",
            min=0,
            help="Seed of a simulated shop for validation (hyperparameters, calibration);"
            " repeatable.",
        ),
    ] = None,
    test_seed: Annotated[
        list[int] | None,
        typer.Option(
            "--test-seed", min=0, help="Seed of a simulated shop for the test; repeatable."
        ),
    ] = None,
    rows: own_events.OwnRowsOption = None,
    labels: own_events.LabelsOption = None,
    train_start: own_events.TrainStartOption = None,
    validation_start: own_events.ValidationStartOption = None,
    test_start: own_events.TestStartOption = None,
    test_end: own_events.TestEndOption = None,
    delay_days: own_events.LabelDelayOption = 7.0,
    false_alarm_cost: own_events.FalseAlarmCostOption = 5.0,
    without_erased: WithoutErasedOption = False,
    config: ConfigOption = None,
) -> None:
    """Train the fraud model on simulated shops with known frauds, or on own events with --rows.

    Without seeds it uses the shops of the shipped model
    (models/fraud/training/train_simulated.py). The setting scoring.checkpoint names the folder to
    serve. The last line is JSON.

    Example: `liveprofile model train event-risk --out models/risk-1`
    """
    import dataclasses

    from models.fraud.training.train_simulated import FraudRecipe, train_simulated

    split = own_events.SplitDays(train_start, validation_start, test_start, test_end)
    if rows is None and (labels is not None or any(split)):
        raise InputError("--labels and the days of the split need --rows")
    if rows is None and without_erased:
        raise InputError("--without-erased needs --rows: simulated users are nobody")
    if rows is not None:
        left_out = users_left_out(without_erased, None, config)
        if without_erased:
            print_line(f"rows of {len(left_out)} users are left out, if there are any")
        with progress() as on_progress:
            report = own_events.train_on_own_events(
                rows,
                labels,
                split,
                delay_days,
                false_alarm_cost,
                out,
                config,
                on_progress,
                left_out,
            )
        print_json({"recipe": "event-risk", **report})
        return
    seeds = {
        "train_seeds": train_seed,
        "validation_seeds": validation_seed,
        "test_seeds": test_seed,
    }
    chosen = dataclasses.replace(
        FraudRecipe().sized(users, days),
        **{name: tuple(values) for name, values in seeds.items() if values},
    )
    with progress() as on_progress:
        model = train_simulated(chosen, out, on_progress)
    metadata = {
        name: model.metadata[name]
        for name in ("spans", "order", "setting", "thresholds", "validation", "test")
    }
    print_json({"recipe": "event-risk", "version": model.version, "folder": str(out), **metadata})
