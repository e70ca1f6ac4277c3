"""`liveprofile train event-risk --rows FOLDER`: on a shop's own events and labels."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from cli.common import RejectedLabels, read_settings
from liveprofile.errors import InputError
from liveprofile.resources import product_path

if TYPE_CHECKING:
    from liveprofile.progress import Progress


def _day(flag: str, meaning: str) -> Any:
    return typer.Option(
        flag,
        formats=["%Y-%m-%d"],
        metavar="DAY",
        show_default=False,
        help=f"With --rows: {meaning}",
    )


RowsOption = Annotated[
    Path | None,
    typer.Option(
        "--rows",
        metavar="PATH",
        show_default=False,
        help="Train on own events: what `backfill --pipeline scoring` wrote. Needs the four days below.",
    ),
]
LabelsOption = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        show_default=False,
        help="With --rows: labels, as for feedback send; without, the topic risk-feedback as it is"
        " now.",
    ),
]
TrainStartOption = Annotated[datetime | None, _day("--train-start", "first day to train on.")]
ValidationStartOption = Annotated[
    datetime | None,
    _day("--validation-start", "first day to choose and calibrate by; the training ends the delay"
         " before."),
]  # fmt: skip
TestStartOption = Annotated[
    datetime | None,
    _day("--test-start", "first day to test on; the validation ends the delay before."),
]
TestEndOption = Annotated[
    datetime | None, _day("--test-end", "last day to test on, the delay before the labels' end.")
]
DelayOption = Annotated[
    float,
    typer.Option(
        "--delay-days",
        min=0,
        help="With --rows: after so many days an event that nobody labelled is legitimate.",
    ),
]
FalseAlarmOption = Annotated[
    float,
    typer.Option(
        "--false-alarm-cost",
        min=0,
        help="With --rows: what a false alarm costs, in the money of the amounts, for the threshold"
        " by cost.",
    ),
]


class Days(NamedTuple):
    """As typed; None: not given."""

    train_start: datetime | None
    validation_start: datetime | None
    test_start: datetime | None
    test_end: datetime | None


def train_own(
    rows: Path,
    labels: Path | None,
    days: Days,
    delay_days: float,
    false_alarm_cost: float,
    out: Path,
    config: Path | None,
    on_progress: Progress,
) -> dict[str, Any]:
    """The report. Raises InputError for a day that is missing."""
    from cli.pipeline.backfill_run import ANALYST
    from liveprofile.labels.feedback import read_given, valid
    from liveprofile.rules.rules import read_rules
    from models.fraud.datasets.labelled_rows import Labels, read_events
    from models.fraud.training import train_on_labels
    from models.fraud.training.train_simulated import Costs

    for name, day in days._asdict().items():
        if day is None:
            raise InputError(f"--rows needs --{name.replace('_', '-')} too")
    split = train_on_labels.Split(*(day.date() for day in days if day), delay_days)
    settings = read_settings(config)
    rejected = RejectedLabels(labels or settings.topics.feedback)
    given = Labels.of(valid(read_given(settings, labels, ANALYST), rejected))
    model = train_on_labels.train_own(
        read_events(rows, given),
        split,
        read_rules(product_path(settings.rules)),
        out,
        Costs(false_alarm_cost=false_alarm_cost),
        on_progress=on_progress,
    )
    told = ("split", "labels", "train", "setting", "thresholds", "validation", "test", "baselines")
    return {
        "version": model.version,
        "folder": str(out),
        "rejected_labels": rejected.count,
        **{name: model.about[name] for name in told},
    }
