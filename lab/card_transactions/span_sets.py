"""Chooses the time spans of the features on the validation split.

All features take their spans from one ladder (liveprofile.features.entity.past_events.SPANS_MS),
which is older than any data set. How fine and how long the model's part of it is, is a
hyperparameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from liveprofile.features.entity import ORDER_FEATURES
from liveprofile.features.entity.past_events import SPANS_MS
from liveprofile.progress import Progress
from models.fraud.datasets.event_dataset import LabelledFeatures
from models.fraud.training.fit import tune_trees

_COARSE = ("1m", "10m", "1h", "1d", "7d", "30d")
SPAN_SETS = {
    "coarse": _COARSE,
    "fine": (*_COARSE, "6h", "3d"),
    "long": (*_COARSE, "90d"),
    "full": tuple(SPANS_MS),
}


class SpanChoice(NamedTuple):
    """The chosen features, and the splits with these alone."""

    names: list[str]
    train: LabelledFeatures
    validation: LabelledFeatures
    report: dict[str, str | dict[str, float]]  # `chosen` and `average_precision` by set


def names_within(names: Sequence[str], spans: Sequence[str]) -> list[str]:
    """Returns the names without a span and those with one of `spans`."""
    unwanted = set(SPANS_MS) - set(spans)
    return [name for name in names if name.rpartition("_")[2] not in unwanted]


def choose_spans(
    train: LabelledFeatures,
    legitimate_weight: float,
    validation: LabelledFeatures,
    names: list[str],
    setting: dict,
    sets: Sequence[str] = tuple(SPAN_SETS),
    on_progress: Progress = lambda stage, done, total: None,
) -> SpanChoice:
    """Returns the set whose trees have the best average precision on validation.

    names: the columns of both splits. setting: of the trees, the same for each set.
    """
    precision: dict[str, float] = {}
    for done, name in enumerate(sets, 1):
        columns = names_within(names, SPAN_SETS[name])
        tuned = tune_trees(
            _take(train, names, columns),
            legitimate_weight,
            _take(validation, names, columns),
            columns,
            [setting],
        )
        precision[name] = round(tuned.average_precision, 5)
        on_progress("spans", done, len(sets))
    chosen = max(precision, key=precision.__getitem__)
    columns = names_within(names, SPAN_SETS[chosen])
    return SpanChoice(
        columns,
        _take(train, names, columns),
        _take(validation, names, columns),
        {"chosen": chosen, "average_precision": precision},
    )


def _take(split: LabelledFeatures, names: list[str], columns: list[str]) -> LabelledFeatures:
    if columns == names:
        return split
    index = {name: number for number, name in enumerate(names)}
    return LabelledFeatures(split.x_NF[:, [index[name] for name in columns]], split.fraud_N)


def with_order_columns(chosen: LabelledFeatures, all_columns: LabelledFeatures) -> LabelledFeatures:
    """Appends ORDER_FEATURES, the last columns of `all_columns`, to some chosen columns."""
    order_NF = all_columns.x_NF[:, -len(ORDER_FEATURES) :]
    return chosen._replace(x_NF=np.column_stack([chosen.x_NF, order_NF]))
