"""Trains the fraud model's trees, tunes and calibrates them on a validation split.

The trees are boosted trees and a random forest in one booster. Both see the same features, and
their errors differ: the sum ranks frauds better than the boosted trees alone. Validation also
chooses whether they read the order of the user's last events: ORDER_FEATURES, and the columns of a
Markov model of them (models.fraud.transitions).

Shape suffixes: N events, F features.
"""

import platform
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import xgboost as xgb
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score

from liveprofile.disk_tables import mapped_zeros
from liveprofile.features.entity import EVENT_FEATURES, ORDER_FEATURES, SCORED_TYPES
from liveprofile.progress import Progress
from models.fraud.datasets.event_dataset import SEED, EventDataset, LabelledFeatures, first_columns
from models.fraud.model import ANY_TYPE, Calibration, FraudModel, trees_log_odds
from models.fraud.transitions import COLUMNS, TransitionModel, append_out_of_fold
from models.profile.evaluation.intervals import UserBootstrap

# The features left out show how long the job has run rather than anything about the event.
FEATURES = [
    name
    for name in EVENT_FEATURES
    if not name.endswith("_list_events") and "_settled_" not in name and name not in ORDER_FEATURES
]
# max_depth, rounds and eta are those of the boosted trees. forest: log-odds that the forest adds to
# an event whose leaves have frauds alone; 0 or absent: no forest.
SETTINGS = [
    {"max_depth": depth, "rounds": rounds, "eta": eta, "forest": 10.0}
    for depth, (rounds, eta) in product((3, 5), ((300, 0.04), (600, 0.02)))
]
FOREST_TREES = 100
_FOREST_LEAF_EVENTS = 3.3  # at least so many in a leaf, by weight
_FOREST_LAMBDA_EVENTS = 0.1  # shrinks a leaf as so many average events in it would
_COMMON = {
    "objective": "binary:logistic",
    "tree_method": "hist",
    "seed": SEED,
    # Threads wait for each other in a busy loop: next to another process, several threads take a
    # hundred times as long as one.
    "nthread": 1,
}
# The bootstrap resamples groups of users, so its memory does not grow with the number of users.
_USER_GROUPS = 2_000
_CHUNK_ROWS = 10_000


def fit_trees(
    dataset: LabelledFeatures, legitimate_weight: float, names: list[str], setting: dict
) -> xgb.Booster:
    """Trains one booster: `rounds` boosted trees, then FOREST_TREES of a forest if it has a weight.

    setting: as in SETTINGS. legitimate_weight: of each legitimate event; a fraud has 1.
    """
    weight_N = np.where(dataset.fraud_N, 1.0, legitimate_weight)
    data = xgb.QuantileDMatrix(
        dataset.x_NF,
        dataset.fraud_N.astype(np.float32),
        weight=weight_N,
        feature_names=names,
        nthread=1,
    )
    settings = {key: value for key, value in setting.items() if key not in ("rounds", "forest")}
    booster = xgb.train(
        {
            **_COMMON,
            "subsample": 0.8,
            "colsample_bytree": 0.5,
            "min_child_weight": 3,
            **settings,
        },
        data,
        setting["rounds"],
    )
    forest = setting.get("forest", 0.0)
    return _add_forest(booster, data, dataset.fraud_N, weight_N, forest) if forest else booster


def _add_forest(
    booster: xgb.Booster,
    data: xgb.QuantileDMatrix,
    fraud_N: np.ndarray,
    weight_N: np.ndarray,
    log_odds: float,
) -> xgb.Booster:
    """Appends a random forest (Breiman 2001) that ignores the trees before it.

    Each tree adds log_odds / FOREST_TREES times (share of frauds in the leaf - share of all).
    """
    prior = np.average(fraud_N, weights=weight_N)
    variance = prior * (1 - prior)
    # Every tree gets the gradient at the prior, so it learns from the labels and not from what the
    # trees before it left over. A leaf is then (its share of frauds - prior) / variance.
    gradient_N = (weight_N * (prior - fraud_N)).astype(np.float32)
    hessian_N = (weight_N * variance).astype(np.float32)
    return xgb.train(
        {
            **_COMMON,
            "eta": log_odds * variance / FOREST_TREES,
            "max_depth": 10,
            "subsample": 0.63,  # as many distinct events as in a sample with replacement
            "colsample_bynode": 0.15,
            "min_child_weight": _FOREST_LEAF_EVENTS * variance,
            "lambda": _FOREST_LAMBDA_EVENTS * variance,
        },
        data,
        FOREST_TREES,
        xgb_model=booster,
        obj=lambda _margin, _data: (gradient_N, hessian_N),
    )


class TunedTrees(NamedTuple):
    setting: dict[str, Any]
    booster: xgb.Booster  # trained on the train split
    log_odds_N: np.ndarray  # uncalibrated, of the validation split
    average_precision: float


def tune_trees(
    train: LabelledFeatures,
    legitimate_weight: float,
    validation: LabelledFeatures,
    names: list[str],
    settings: list[dict] = SETTINGS,
    on_progress: Progress = lambda stage, done, total: None,
) -> TunedTrees:
    """Returns the trees with the best average precision on validation."""
    best = None
    for done, setting in enumerate(settings, 1):
        booster = fit_trees(train, legitimate_weight, names, setting)
        log_odds_N = trees_log_odds(booster, validation.x_NF)
        precision = float(average_precision_score(validation.fraud_N, log_odds_N))
        if best is None or precision > best.average_precision:
            best = TunedTrees(setting, booster, log_odds_N, precision)
        on_progress("fit", done, len(settings))
    return best


def fit_calibration(log_odds_N: np.ndarray, fraud_N: np.ndarray) -> Calibration:
    """Fits Platt scaling (Platt 1999) to log-odds of a split that the trees were not trained on."""
    regression = LogisticRegression(C=1e6, max_iter=1_000).fit(log_odds_N[:, None], fraud_N)
    return Calibration(float(regression.coef_[0, 0]), float(regression.intercept_[0]))


def usual_values(dataset: LabelledFeatures, names: list[str]) -> dict[str, list[float]]:
    """Returns feature medians over legitimate events, for ANY_TYPE and each event type."""
    rows_by_type = {ANY_TYPE: ~dataset.fraud_N}
    for event_type in SCORED_TYPES:
        if f"is_{event_type}" in names:
            column_N = dataset.x_NF[:, names.index(f"is_{event_type}")]
            rows_by_type[event_type] = ~dataset.fraud_N & (column_N == 1)
    return {
        event_type: _medians(dataset.x_NF[chosen_N, : len(names)])
        for event_type, chosen_N in rows_by_type.items()
        if chosen_N.any()
    }


def _medians(x_NF: np.ndarray) -> list[float]:
    known_F = ~np.isnan(x_NF).all(axis=0)
    medians_F = np.full(x_NF.shape[1], np.nan)
    medians_F[known_F] = np.nanmedian(x_NF[:, known_F], axis=0)
    return medians_F.tolist()


def score_metrics(score_N: np.ndarray, fraud_N: np.ndarray) -> dict[str, Any]:
    """Measures calibrated scores. The split must be new to trees and calibration."""
    return {
        "events": len(fraud_N),
        "frauds": int(fraud_N.sum()),
        "average_precision": round(float(average_precision_score(fraud_N, score_N)), 4),
        "roc_auc": round(float(roc_auc_score(fraud_N, score_N)), 4),
        "brier": round(float(np.mean((score_N - fraud_N) ** 2)), 6),
    }


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


def build_model(
    name: str,
    booster: xgb.Booster,
    calibration: Calibration,
    inputs: TreeInputs,
    delay_days: float,
    metadata: dict[str, Any],
) -> FraudModel:
    """The training events give the model's usual values. metadata: fields for the model card."""
    booster.set_param({"nthread": 1})
    versions = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "xgboost": xgb.__version__,
    }
    return FraudModel(
        name,
        inputs.names,
        delay_days,
        booster,
        calibration,
        usual_values(inputs.train, inputs.names),
        {**metadata, "versions": versions},
        transitions=inputs.transitions,
    )


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
        inputs,
        delay_days,
        {**metadata, "order": report, "setting": tuned.setting},
    )


def choose_order(
    train: LabelledFeatures,
    train_user_N: np.ndarray,
    legitimate_weight: float,
    validation: LabelledFeatures,
    validation_user_N: np.ndarray,
    names: list[str],
    setting: dict,
) -> tuple[TreeInputs, dict[str, Any]]:
    """Chooses the inputs with order if all of the gain's 95 % interval is above 0.

    The report has `chosen`, `average_precision` of `without` and `with` order, and `gain_95`, the
    interval of the difference over users.

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
    return candidates[chosen], report
