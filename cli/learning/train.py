"""`liveprofile model train RECIPE`: trains a model; one subcommand per recipe."""

import dataclasses
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cli.common import Call, ConfigCall, FaultReporter, print_json, read_user_ids
from cli.options import Commands
from cli.progress import print_line, progress
from liveprofile.errors import InputError
from liveprofile.resources import product_path
from models.profile.recipes import RECIPES, override_from_toml, recipe

RowsOption = Annotated[
    Path,
    typer.Option(
        "--rows",
        metavar="PATH",
        help="Training rows: Parquet file or folder that `liveprofile model backfill` wrote.",
    ),
]
OutFolderOption = Annotated[
    Path, typer.Option("--out", metavar="FOLDER", help="Folder for the model checkpoint.")
]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option("--device", help="Device; auto: a GPU if there is one."),
]

DayOption = Annotated[datetime, typer.Option(formats=["%Y-%m-%d"])]

train = Commands(
    name="train",
    help="Train a model; each command is a recipe. Training on the CPU is deterministic: the same"
    " data, recipe, versions and processor give the same result.",
)
VALIDATION = {
    "category_ndcg_at_10": "next category, NDCG@10 on validation",
    "item_ndcg_at_10": "next item, NDCG@10 on validation",
}
OWN_METADATA = (
    "split",
    "labels",
    "train",
    "order",
    "setting",
    "thresholds",
    "validation",
    "test",
    "baselines",
)


def _profile_command(name: str) -> Callable[..., None]:
    def command(
        call: Call,
        rows: RowsOption,
        out: OutFolderOption,
        epochs: Annotated[int | None, typer.Option(min=1)] = None,
        params: Path | None = None,
        teacher: Path | None = None,
        incremental: Annotated[Path | None, typer.Option("--continue")] = None,
        texts: bool = False,
        refit: Literal["validation", "test"] | None = None,
        without_erased: bool = False,
        without: Path | None = None,
        device: DeviceOption = "auto",
    ) -> None:
        """Trains a user model.

        Options:
        epochs: Maximum number of epochs. Default: the recipe's.
        params FILE: TOML file that overrides values of the recipe, such as one of `liveprofile
            model tune`.
        teacher FOLDER: Model checkpoint to start from and to distil.
        incremental FOLDER: Model checkpoint to train further on the rows after its own training;
            distillation keeps what it has learned.
        texts: Also use review texts and search queries; encoding takes some milliseconds per text
            on a CPU. Serve such a model with the setting model.texts.
        refit: After validation has chosen everything, train again on all windows up to the end of
            this part, with the same choices. After `test` no part is left to measure the model.
        without_erased: Leave out the rows of all users in the topic user-erasures.
        without FILE: Leave out the rows of these users: ids, one a line.
        """
        from models.profile.text_encoder import encode
        from models.profile.training.train import train as run

        if teacher is not None and incremental is not None:
            raise InputError("--teacher: --continue uses its own checkpoint as the teacher")
        chosen = recipe(name)
        if params is not None:
            chosen = override_from_toml(chosen, params)
        if epochs is not None:
            chosen = dataclasses.replace(chosen, epochs=epochs)
        left_out = _users_left_out(call, without_erased, without)
        with progress() as on_progress:
            card = run(
                chosen,
                rows,
                out,
                on_progress,
                print_line,
                device=device,
                teacher_folder=incremental or teacher,
                incremental=incremental is not None,
                encode_texts=encode if texts else None,
                without=left_out,
                refit=refit,
            )
        if card is None:  # a torchrun process other than the first
            return
        shown = {"version": card["version"], "folder": out, **_summary(card["metrics"])}
        if refit:
            until = card["data"]["train_until"]
            shown["refitted on windows until"] = f"{until}; the figures above are those before"
        call.print({"version": card["version"], "folder": str(out), **card["metrics"]}, shown)

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


def _users_left_out(call: Call, erased: bool, file: Path | None) -> frozenset[str]:
    """The users of --without-erased and --without. Raises InputError and ServiceError."""
    users = frozenset(read_user_ids(file, "--without") if file else ())
    if erased:
        from liveprofile.feeds.users import read_erasures

        users |= read_erasures(call.settings).users().keys()
    if erased or file:
        print_line(f"rows of {len(users)} users are left out, if there are any")
    return users


def _summary(metrics: dict[str, Any]) -> dict[str, Any]:
    validation = metrics["validation"]
    return {
        "epochs": f"{metrics['epochs']}, best {metrics['best_epoch']}",
        "seconds": metrics["seconds"],
        **{
            label: validation[name]
            for name, label in VALIDATION.items()
            if validation[name] is not None
        },
    }


@train.command("event-risk")
def event_risk(
    call: ConfigCall,
    out: OutFolderOption,
    rows: RowsOption,
    train_start: DayOption,
    validation_start: DayOption,
    test_start: DayOption,
    test_end: DayOption,
    labels: Path | None = None,
    delay_days: Annotated[float, typer.Option(min=0)] = 7.0,
    false_alarm_cost: Annotated[float, typer.Option(min=0)] = 5.0,
    without_erased: bool = False,
) -> None:
    """Train the fraud model on own events and labels (docs/risk.md).

    The setting scoring.checkpoint names the folder to serve. The last line is JSON.

    Example: `liveprofile model train event-risk --rows rows --out risk-1 --train-start 2024-01-08
    --validation-start 2024-02-05 --test-start 2024-02-19 --test-end 2024-02-29`

    Options:
    labels FILE: File of labels, as for `risk feedback`. Default: the current content of the topic
        risk-feedback.
    train_start DAY: First day of the training part.
    validation_start DAY: First day of the validation part (hyperparameters, calibration); the
        training part ends --delay-days before it.
    test_start DAY: First day of the test part; the validation part ends --delay-days before it.
    test_end DAY: Last day of the test part, --delay-days before the last label's day.
    delay_days: Days after which an event without a label counts as legitimate.
    false_alarm_cost: Cost of a false alarm in the currency of the amounts, for the cost-based
        threshold.
    without_erased: Leave out the rows of all users in the topic user-erasures.
    """
    from intake.labels import keep_valid, read_file_or_topic
    from liveprofile.rules.rules import read_rules
    from models.fraud.datasets.labelled_rows import LabelLog, read_labelled_events
    from models.fraud.training import train_on_labels
    from offline.backfill import UNKNOWN_ANALYST

    split = train_on_labels.DateSplit(
        train_start.date(),
        validation_start.date(),
        test_start.date(),
        test_end.date(),
        delay_days,
    )
    rejected = FaultReporter(labels or call.settings.topics.feedback)
    found = read_file_or_topic(call.settings, labels, UNKNOWN_ANALYST)
    label_log = LabelLog.from_records(keep_valid(found, rejected))
    without = _users_left_out(call, without_erased, None)
    with progress() as on_progress:
        model = train_on_labels.train_on_labels(
            read_labelled_events(rows, label_log, without),
            split,
            read_rules(product_path(call.settings.rules)),
            out,
            false_alarm_cost,
            on_progress=on_progress,
        )
    report = {"version": model.version, "folder": str(out), "rejected_labels": rejected.count}
    report |= {name: model.metadata[name] for name in OWN_METADATA}
    print_json({"recipe": "event-risk", **report})
