"""Churn, spend and time to the next purchase at any time, compared with baseline models.

Measured at month ends and at random times, for every user seen so far (see
models/profile/data/moments.py), for several horizons. A moment belongs to the split in which
its horizon ends. The baseline models train on moments whose horizons end before those of validation
begin.

The model's values are the stored ones: those of the user's last window, however old it is, read at
the moment. The product's baseline models are linear, read what the value curves read, at the
moment, and are tuned on validation.

Shape suffixes: M moments, W windows, X inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from liveprofile.progress import Progress
from models.profile.data.examples import Corpus
from models.profile.data.moments import (
    HORIZONS_DAYS,
    Moments,
    Outcomes,
    inputs_at,
    moment_ranges_ms,
    outcomes,
)
from models.profile.data.prepared import Split, SplitName
from models.profile.data.training_rows import Streams
from models.profile.evaluation.intervals import UserBootstrap
from models.profile.recipes import Recipe

TRAINING_MOMENTS_PER_USER = 12
MOMENTS_PER_USER = 3
SEED = 20170930
# Of the mean loss, so that it does not depend on the number of moments.
L2 = (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0)


class Predictions(NamedTuple):
    """Predictions at W moments; None for what a model does not predict."""

    churn_W: np.ndarray | None = None  # higher is likelier
    spend_W: np.ndarray | None = None  # currency
    days_W: np.ndarray | None = None  # days to the next purchase, at most the horizon


class Baseline(NamedTuple):
    """What a baseline model predicts, and the settings that validation chose, by target."""

    predictions: Predictions
    settings: dict[str, Any]


# The model's predictions at moments, for a horizon in days. Fields are None for what it lacks.
ModelPredictions = Callable[[Moments, int], Predictions]
# From the moments of training, of validation and of the measured part, for a horizon in days.
FitBaselines = Callable[[Moments, Moments, Moments, int, Progress], dict[str, Baseline]]


def split_moments(streams: Streams, split: Split, horizon_days: int) -> tuple[Moments, ...]:
    """The moments of training, validation and test."""
    per_user = (TRAINING_MOMENTS_PER_USER, MOMENTS_PER_USER, MOMENTS_PER_USER)
    return tuple(
        Moments.draw(streams, *range_ms, count, SEED + number)
        for number, (range_ms, count) in enumerate(
            zip(moment_ranges_ms(streams, split, horizon_days), per_user, strict=True)
        )
    )


def any_time_report(
    streams: Streams,
    split: Split,
    split_name: SplitName,
    model: ModelPredictions,
    baselines: FitBaselines,
    on_progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Metrics of each horizon; None for a horizon that the rows are too short for."""
    report: dict[str, Any] = {}
    for days in HORIZONS_DAYS:
        train, validation, test = split_moments(streams, split, days)
        moments = validation if split_name == "validation" else test
        report[f"{days}_days"] = None
        if min(len(each.window_M) for each in (train, validation, moments)) == 0:
            continue
        fitted = baselines(
            train,
            validation,
            moments,
            days,
            lambda name, done, total, days=days: on_progress(f"{name}, {days} days", done, total),
        )
        report[f"{days}_days"] = {
            **compare_values(
                streams.user_W[moments.window_M],
                outcomes(streams, moments, days),
                model(moments, days),
                {name: each.predictions for name, each in fitted.items()},
            ),
            "chosen": {name: each.settings for name, each in fitted.items()},
        }
    return report


def compare_values(
    user_M: np.ndarray,
    truth: Outcomes,
    model: Predictions,
    baselines: Mapping[str, Predictions],
) -> dict[str, Any]:
    """Area under the ROC curve of churn, mean absolute errors of spend and days.

    `model_over` is the model's minus the baseline's with its 95 % interval over users. Churn is
    None if only one class occurs.
    """
    bootstrap = UserBootstrap(user_M)
    report: dict[str, Any] = {"moments": len(user_M), "users": len(np.unique(user_M))}
    for target, true_M in zip(("churn", "spend", "days"), truth, strict=True):
        is_churn, column = target == "churn", f"{target}_W"
        if is_churn and (not true_M.any() or true_M.all()):
            report[target] = None
            continue
        report[target] = {"share" if is_churn else "mean": round(float(true_M.mean()), 4)}
        for name, each in {"model": model, **baselines}.items():
            ours_M, value_M = getattr(model, column), getattr(each, column)
            if value_M is None:
                continue
            if is_churn:
                found = {"auc": round(float(roc_auc_score(true_M, value_M)), 4)}
            else:
                found = {"mae": round(float(np.abs(value_M - true_M).mean()), 4)}
            if name != "model" and ours_M is not None:
                measure = bootstrap.auc if is_churn else bootstrap.mae
                difference = measure(ours_M, value_M, true_M)
                found["model_over"] = [round(value, 4) for value in difference]
            report[target][name] = found
    return report


def linear_baselines(
    corpus: Corpus,
    recipe: Recipe,
    train: Moments,
    validation: Moments,
    measured: Moments,
    days: int,
    on_progress: Progress = lambda stage, done, total: None,
) -> dict[str, Baseline]:
    """Logistic regression for churn, linear regression for spend and days, at `measured`.

    Returns an empty dict if training or validation have one class only (all churned or none).
    """
    train_MX, validation_MX, measured_MX = (
        inputs_at(corpus, recipe, *moments) for moments in (train, validation, measured)
    )
    known, held_out = (outcomes(corpus.streams, each, days) for each in (train, validation))
    if not all(each.churned_M.any() and not each.churned_M.all() for each in (known, held_out)):
        return {}
    predictions, settings = {}, {}
    for number, target in enumerate(("churn", "spend", "days")):
        best_loss = np.inf
        for done, l2 in enumerate(L2, 1 + number * len(L2)):
            strength = l2 * len(train_MX)
            if target == "churn":
                regression = LogisticRegression(C=1 / strength, max_iter=1_000)
            else:
                regression = Ridge(alpha=strength)
            model = make_pipeline(StandardScaler(), regression).fit(train_MX, known[number])
            loss = _loss(target, held_out[number], _predict(model, target, validation_MX, days))
            if loss < best_loss:
                best_loss, settings[target] = loss, {"l2": l2}
                predictions[target] = _predict(model, target, measured_MX, days)
            on_progress("regressions", done, 3 * len(L2))
    churn = {"churn": settings.pop("churn")}
    return {
        "logistic_regression": Baseline(Predictions(predictions.pop("churn")), churn),
        "linear_regression": Baseline(Predictions(None, *predictions.values()), settings),
    }


def _predict(model: Any, target: str, input_MX: np.ndarray, days: int) -> np.ndarray:
    if target == "churn":
        return model.predict_proba(input_MX)[:, 1]
    return np.clip(model.predict(input_MX), 0.0, days if target == "days" else np.inf)


def _loss(target: str, true_M: np.ndarray, predicted_M: np.ndarray) -> float:
    """1 - area under the ROC curve of churn, or the mean absolute error."""
    if target == "churn":
        return 1 - float(roc_auc_score(true_M, predicted_M))
    return float(np.abs(predicted_M - true_M).mean())
