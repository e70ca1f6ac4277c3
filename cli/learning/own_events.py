"""`liveprofile model train event-risk --rows FOLDER`: trains on a shop's own events and labels."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from cli.common import RejectedLabelReporter, read_settings
from cli.learning.options import day_option
from liveprofile.errors import InputError
from liveprofile.resources import product_path

if TYPE_CHECKING:
    from liveprofile.progress import Progress


def _split_day(name: str, meaning: str) -> Any:
    return day_option(name, f"With --rows: {meaning}", show_default=False)


OwnRowsOption = Annotated[
    Path | None,
    typer.Option(
        "--rows",
        metavar="PATH",
        show_default=False,
        help="Train on own events: folder that `backfill --pipeline scoring` wrote. Needs the four"
        " days below.",
    ),
]
LabelsOption = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        show_default=False,
        help="With --rows: file of labels, as for `feedback send`. Default: the current content of"
        " the topic risk-feedback.",
    ),
]
TrainStartOption = Annotated[
    datetime | None, _split_day("--train-start", "first day of the training part.")
]
ValidationStartOption = Annotated[
    datetime | None,
    _split_day(
        "--validation-start",
        "first day of the validation part (hyperparameters, calibration); the training part ends"
        " --delay-days before it.",
    ),
]
TestStartOption = Annotated[
    datetime | None,
    _split_day(
        "--test-start",
        "first day of the test part; the validation part ends --delay-days before it.",
    ),
]
TestEndOption = Annotated[
    datetime | None,
    _split_day(
        "--test-end", "last day of the test part, --delay-days before the last label's day."
    ),
]
LabelDelayOption = Annotated[
    float,
    typer.Option(
        "--delay-days",
        min=0,
        help="With --rows: days after which an event without a label counts as legitimate.",
    ),
]
FalseAlarmCostOption = Annotated[
    float,
    typer.Option(
        "--false-alarm-cost",
        min=0,
        help="With --rows: cost of a false alarm in the currency of the amounts, for the"
        " cost-based threshold.",
    ),
]


REPORTED_METADATA = (
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


class SplitDays(NamedTuple):
    """The four days of the split; None for an option that is not set."""

    train_start: datetime | None
    validation_start: datetime | None
    test_start: datetime | None
    test_end: datetime | None


def train_on_own_events(
    rows: Path,
    labels: Path | None,
    days: SplitDays,
    delay_days: float,
    false_alarm_cost: float,
    out: Path,
    config: Path | None,
    on_progress: Progress,
    without: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Trains, writes the model checkpoint to `out` and returns the report.

    without: users whose rows are left out. Raises InputError for a missing day.
    """
    from liveprofile.labels.feedback import keep_valid, read_file_or_topic
    from liveprofile.rules.rules import read_rules
    from models.fraud.datasets.labelled_rows import LabelLog, read_labelled_events
    from models.fraud.training import train_on_labels
    from models.fraud.training.train_simulated import AlertCosts
    from offline.backfill import UNKNOWN_ANALYST

    for name, day in days._asdict().items():
        if day is None:
            raise InputError(f"--rows needs --{name.replace('_', '-')} too")
    split = train_on_labels.DateSplit(*(day.date() for day in days if day), delay_days)
    settings = read_settings(config)
    rejected = RejectedLabelReporter(labels or settings.topics.feedback)
    label_log = LabelLog.from_records(
        keep_valid(read_file_or_topic(settings, labels, UNKNOWN_ANALYST), rejected)
    )
    model = train_on_labels.train_on_labels(
        read_labelled_events(rows, label_log, without),
        split,
        read_rules(product_path(settings.rules)),
        out,
        AlertCosts(false_alarm_cost=false_alarm_cost),
        on_progress=on_progress,
    )
    return {
        "version": model.version,
        "folder": str(out),
        "rejected_labels": rejected.count,
        **{name: model.metadata[name] for name in REPORTED_METADATA},
    }
