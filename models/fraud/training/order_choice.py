"""Chooses on the validation split whether the trees read the order of the user's last events.

With order, the trees read ORDER_FEATURES and the columns of a Markov model of them
(models.fraud.transitions).

Shape suffixes: N events, F features.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import average_precision_score

from liveprofile.disk_tables import mapped_zeros
from liveprofile.features.entity import ORDER_FEATURES
from liveprofile.progress import Progress
from models.fraud.datasets.event_dataset import EventDataset, LabelledFeatures
from models.fraud.model import FraudModel, trees_log_odds
from models.fraud.training.fit import build_model, fit_calibration, fit_trees, tune_trees
from models.fraud.transitions import COLUMNS, TransitionModel, append_out_of_fold
from models.profile.evaluation.intervals import UserBootstrap

# The bootstrap resamples groups of users, so its memory does not grow with the number of users.
_USER_GROUPS = 2_000
_CHUNK_ROWS = 10_000


class TreeInputs(NamedTuple):
    """What the trees are trained on, and what they read of events that they were not trained on."""

    names: list[str]  # F features
    tree_names: list[str]  # the features, then COLUMNS if there are transitions
    train: LabelledFeatures
    transitions: TransitionModel | None

    def of(self, split: LabelledFeatures) -> LabelledFeatures:
        """Returns the inputs for events that were not trained on. The first columns are `names`."""
        features = first_columns(split, len(self.names))
        if self.transitions is None:
            return features
        x_NC = mapped_zeros((len(features.x_NF), len(self.tree_names)), np.float32)
        for start in range(0, len(x_NC), _CHUNK_ROWS):
            chunk = slice(start, start + _CHUNK_ROWS)
            x_NC[chunk] = self.transitions.append(features.x_NF[chunk], self.names)
        return split._replace(x_NF=x_NC)


class OrderChoice(NamedTuple):
    inputs: TreeInputs
    # `chosen`, `average_precision` of `without` and `with` order, and `gain_95`, the 95 % interval
    # of the difference over users.
    report: dict[str, bool | dict[str, float] | list[float]]


def tree_inputs(
    train: LabelledFeatures, names: list[str], user_N: np.ndarray, with_order: bool
) -> TreeInputs:
    """names: the first columns of the split without order; those of ORDER_FEATURES follow."""
    if not with_order:
        return TreeInputs(names, names, first_columns(train, len(names)), None)
    names = [*names, *ORDER_FEATURES]
    x_NF = train.x_NF[:, : len(names)]
    return TreeInputs(
        names,
        [*names, *COLUMNS],
        train._replace(x_NF=append_out_of_fold(x_NF, names, train.fraud_N, user_N)),
        TransitionModel.fit(x_NF, names, train.fraud_N),
    )


def fit_model(
    name: str,
    train: EventDataset,
    validation: EventDataset,
    names: list[str],
    delay_days: float,
    settings: list[dict],
    metadata: dict[str, Any],
    on_progress: Progress,
) -> FraudModel:
    """Chooses order and setting on validation, fits the trees and calibrates them.

    names: the first columns of both; those of ORDER_FEATURES follow.
    """
    inputs, report = choose_order(
        train.labelled,
        train.user_M,
        train.weight,
        validation.labelled,
        validation.user_M,
        names,
        settings[0],
    )
    held_out = inputs.of(validation.labelled)
    tuned = tune_trees(
        inputs.train, train.weight, held_out, inputs.tree_names, settings, on_progress
    )
    return build_model(
        name,
        tuned.booster,
        fit_calibration(tuned.log_odds_N, held_out.fraud_N),
        inputs.train,
        inputs.names,
        delay_days,
        {**metadata, "order": report, "setting": tuned.setting},
        inputs.transitions,
    )


def choose_order(
    train: LabelledFeatures,
    train_user_N: np.ndarray,
    legitimate_weight: float,
    validation: LabelledFeatures,
    validation_user_N: np.ndarray,
    names: list[str],
    setting: dict,
) -> OrderChoice:
    """Chooses the inputs with order if all of the gain's 95 % interval is above 0.

    Most frauds show in counts and amounts. There the order only adds noise to few labels, so a gain
    by chance must not choose it. names: the first columns of both splits; those of ORDER_FEATURES
    follow.
    """
    candidates, log_odds = [], []
    for with_order in (False, True):
        inputs = tree_inputs(train, names, train_user_N, with_order)
        booster = fit_trees(inputs.train, legitimate_weight, inputs.tree_names, setting)
        log_odds.append(trees_log_odds(booster, inputs.of(validation).x_NF))
        candidates.append(inputs)
    bootstrap = UserBootstrap(validation_user_N % _USER_GROUPS)
    gain = bootstrap.average_precision(log_odds[1], log_odds[0], validation.fraud_N)
    chosen = gain.low > 0
    precision = [average_precision_score(validation.fraud_N, each_N) for each_N in log_odds]
    report = {
        "chosen": chosen,
        "average_precision": {
            name: round(float(value), 5)
            for name, value in zip(("without", "with"), precision, strict=True)
        },
        "gain_95": [round(gain.low, 5), round(gain.high, 5)],
    }
    return OrderChoice(candidates[chosen], report)


def first_columns(split: LabelledFeatures, columns: int) -> LabelledFeatures:
    """Returns a view of the first columns."""
    return split._replace(x_NF=split.x_NF[:, :columns])
