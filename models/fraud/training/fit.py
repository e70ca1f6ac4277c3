"""Trains the model of single events: settings and calibration by a validation part."""

from __future__ import annotations

import platform
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xgboost as xgb
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score

from liveprofile.features.entity import SCORED_TYPES
from liveprofile.progress import Progress
from models.fraud.datasets.part import SEED, Part
from models.fraud.model import ANY_TYPE, Calibration, EventModel, margins

if TYPE_CHECKING:
    from models.fraud.sequence.network import EventSequence

SETTINGS = [
    {"max_depth": depth, "rounds": rounds, "eta": eta}
    for depth, (rounds, eta) in product((3, 5), ((300, 0.04), (600, 0.02)))
]
RELIABILITY_EDGES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


def fit(part: Part, legitimate_weight: float, names: list[str], setting: dict) -> xgb.Booster:
    weight_N = np.where(part.fraud_N, 1.0, legitimate_weight)
    data = xgb.QuantileDMatrix(
        part.x_NF, part.fraud_N.astype(np.float32), weight=weight_N, feature_names=names, nthread=1
    )
    settings = {key: value for key, value in setting.items() if key != "rounds"}
    return xgb.train(
        {
            "objective": "binary:logistic",
            "tree_method": "hist",
            "subsample": 0.8,
            "colsample_bytree": 0.5,
            "min_child_weight": 3,
            "seed": SEED,
            # Several threads wait for each other in a loop: beside another process that takes a
            # hundred times as long.
            "nthread": 1,
            **settings,
        },
        data,
        setting["rounds"],
    )


class Choice(NamedTuple):
    setting: dict[str, Any]
    booster: xgb.Booster  # of the training part
    margin_N: np.ndarray  # of the validation part
    average_precision: float


def choose(
    train: Part,
    legitimate_weight: float,
    validation: Part,
    names: list[str],
    settings: list[dict] = SETTINGS,
    on_progress: Progress = lambda stage, done, total: None,
) -> Choice:
    """The setting with the best average precision on the validation part."""
    best = None
    for done, setting in enumerate(settings, 1):
        booster = fit(train, legitimate_weight, names, setting)
        margin_N = margins(booster, validation.x_NF)
        precision = float(average_precision_score(validation.fraud_N, margin_N))
        if best is None or precision > best.average_precision:
            best = Choice(setting, booster, margin_N, precision)
        on_progress("fit", done, len(settings))
    return best


def calibrated(margin_N: np.ndarray, fraud_N: np.ndarray) -> Calibration:
    """The logistic curve by which margins of a part that wasn't trained on are probabilities."""
    curve = LogisticRegression(C=1e6, max_iter=1_000).fit(margin_N[:, None], fraud_N)
    return Calibration(float(curve.coef_[0, 0]), float(curve.intercept_[0]))


def reliability(score_N: np.ndarray, fraud_N: np.ndarray) -> list[dict[str, float]]:
    """What came of scores: their mean and the share of frauds, by steps of the score."""
    step_N = np.clip(
        np.searchsorted(RELIABILITY_EDGES, score_N, side="right") - 1, 0, len(RELIABILITY_EDGES) - 2
    )
    rows = []
    for step in np.unique(step_N):
        of_step = step_N == step
        rows.append(
            {
                "from": RELIABILITY_EDGES[step],
                "events": int(of_step.sum()),
                "mean_score": round(float(score_N[of_step].mean()), 5),
                "frauds": round(float(fraud_N[of_step].mean()), 5),
            }
        )
    return rows


def usual_values(part: Part, names: list[str]) -> dict[str, list[float]]:
    """Medians over legitimate events: of all, and of each type."""
    kinds = {ANY_TYPE: ~part.fraud_N}
    for event_type in SCORED_TYPES:
        if f"is_{event_type}" in names:
            column_N = part.x_NF[:, names.index(f"is_{event_type}")]
            kinds[event_type] = ~part.fraud_N & (column_N == 1)
    return {
        kind: _medians(part.x_NF[chosen_N]) for kind, chosen_N in kinds.items() if chosen_N.any()
    }


def _medians(x_NF: np.ndarray) -> list[float]:
    known_F = ~np.isnan(x_NF).all(axis=0)
    medians_F = np.full(x_NF.shape[1], np.nan)
    medians_F[known_F] = np.nanmedian(x_NF[:, known_F], axis=0)
    return medians_F.tolist()


def measured(score_N: np.ndarray, fraud_N: np.ndarray) -> dict[str, Any]:
    """Of calibrated scores of a part that neither trees nor calibration have seen."""
    return {
        "events": len(fraud_N),
        "frauds": int(fraud_N.sum()),
        "average_precision": round(float(average_precision_score(fraud_N, score_N)), 4),
        "roc_auc": round(float(roc_auc_score(fraud_N, score_N)), 4),
        "brier": round(float(np.mean((score_N - fraud_N) ** 2)), 6),
    }


def model_of(
    name: str,
    booster: xgb.Booster,
    calibration: Calibration,
    seen: Part,
    names: list[str],
    delay_days: float,
    about: dict[str, Any],
    sequence: EventSequence | None = None,
) -> EventModel:
    booster.set_param({"nthread": 1})
    versions = {
        "python": platform.python_version(), "numpy": np.__version__, "xgboost": xgb.__version__
    }  # fmt: skip
    usual = usual_values(seen, names)
    return EventModel(
        name, names, delay_days, booster, calibration, usual, {**about, "versions": versions},
        sequence=sequence,
    )  # fmt: skip
