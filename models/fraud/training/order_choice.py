"""Chooses on the validation split whether the trees read the order of the user's last events.

Shape suffix: N events.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from liveprofile.features.entity import ORDER_FEATURES
from models.fraud.datasets.labelled_features import LabelledFeatures
from models.fraud.training.fit import tune_trees
from models.profile.evaluation.intervals import UserBootstrap

# The bootstrap resamples groups of users, so its memory does not grow with the number of users.
_USER_GROUPS = 2_000


class OrderChoice(NamedTuple):
    """The chosen features: those without order, or these and ORDER_FEATURES."""

    names: list[str]
    # `chosen`, `average_precision` of `without` and `with` order, and `gain_95`, the 95 % interval
    # of the difference over users.
    report: dict[str, bool | dict[str, float] | list[float]]


def choose_order(
    train: LabelledFeatures,
    legitimate_weight: float,
    validation: LabelledFeatures,
    names: list[str],
    setting: dict,
    user_N: np.ndarray,
) -> OrderChoice:
    """Chooses ORDER_FEATURES if all of the gain's 95 % interval is above 0.

    Most frauds show in counts and amounts. There the order only adds noise to few labels, so a gain
    by chance must not choose it. names: the first columns of both splits, ORDER_FEATURES are the
    others. user_N: the users of the validation split.
    """
    candidates = {"without": names, "with": [*names, *ORDER_FEATURES]}
    tuned = {
        name: tune_trees(
            first_columns(train, len(columns)),
            legitimate_weight,
            first_columns(validation, len(columns)),
            columns,
            [setting],
        )
        for name, columns in candidates.items()
    }
    gain = UserBootstrap(user_N % _USER_GROUPS).average_precision(
        tuned["with"].log_odds_N, tuned["without"].log_odds_N, validation.fraud_N
    )
    chosen = gain.low > 0
    report = {
        "chosen": chosen,
        "average_precision": {
            name: round(each.average_precision, 5) for name, each in tuned.items()
        },
        "gain_95": [round(gain.low, 5), round(gain.high, 5)],
    }
    return OrderChoice(candidates["with" if chosen else "without"], report)


def with_order_columns(chosen: LabelledFeatures, all_columns: LabelledFeatures) -> LabelledFeatures:
    """Appends ORDER_FEATURES, the last columns of `all_columns`, to some chosen columns."""
    order_NF = all_columns.x_NF[:, -len(ORDER_FEATURES) :]
    return chosen._replace(x_NF=np.column_stack([chosen.x_NF, order_NF]))


def first_columns(split: LabelledFeatures, columns: int) -> LabelledFeatures:
    """Returns a view of the first columns."""
    return split._replace(x_NF=split.x_NF[:, :columns])
