"""Churn, spend and time to the next purchase at any time, compared with baseline models.

Measured at month ends and at random times, for every user seen so far (see
models/profile/evaluation/moments.py), for several horizons. A moment belongs to the split in which
its horizon ends. The baseline models train on moments whose horizons end before those of validation
begin.

The model's values are the stored ones: those of the user's last window, however old it is, read at
the moment if they are curves.

Shape suffixes: M moments, W windows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from liveprofile.progress import Progress
from liveprofile.units import DAY_MS
from models.profile.data.training_rows import Streams
from models.profile.evaluation.baseline_models import MODELS, Fit, fit_all
from models.profile.evaluation.baseline_models.data import BaselineData, Predictions
from models.profile.evaluation.intervals import UserBootstrap
from models.profile.evaluation.moments import Moments, Outcomes, outcomes

if TYPE_CHECKING:
    from models.profile.data.prepared import Split

HORIZONS_DAYS = (7, 30, 90)
TRAINING_MOMENTS_PER_USER = 12
MOMENTS_PER_USER = 3
SEED = 20170930

# The model's predictions at moments, for a horizon in days. Fields are None for what it lacks.
ModelPredictions = Callable[[Moments, int], Predictions]


def moment_ranges_ms(
    streams: Streams, split: Split, horizon_days: int
) -> tuple[tuple[int, int], ...]:
    """(after, until] of the moments of training, validation and test.

    A moment of validation or test belongs to the part in which its horizon ends. The horizons of
    training end before the first of validation begins (purging: Lopez de Prado 2018, Advances in
    Financial Machine Learning, chapter 7). Otherwise a user's last training moments and first
    validation moments have nearly the same inputs and labels, and a model that learns users by
    heart gains.
    """
    start_ms, horizon_ms = int(streams.end_ms_W.min()) - 1, horizon_days * DAY_MS
    ends_ms = (split.train_until_ms, split.validation_until_ms, split.test_until_ms)
    first_ms, validation_ms, test_ms = (max(end - horizon_ms, start_ms) for end in ends_ms)
    return (
        (start_ms, max(first_ms - horizon_ms, start_ms)),
        (first_ms, validation_ms),
        (validation_ms, test_ms),
    )


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
    split_name: Literal["validation", "test"],
    model: ModelPredictions,
    on_progress: Progress = lambda *_: None,
    baseline_models: Mapping[str, Fit] = MODELS,
) -> dict[str, Any]:
    """Metrics of each horizon; None for a horizon that the rows are too short for."""
    report: dict[str, Any] = {}
    for days in HORIZONS_DAYS:
        train, validation, test = split_moments(streams, split, days)
        moments = validation if split_name == "validation" else test
        report[f"{days}_days"] = None
        if min(len(each.window_M) for each in (train, validation, moments)) == 0:
            continue
        labels_known_ms = moment_ranges_ms(streams, split, days)[1][0]
        data = BaselineData.from_moments(streams, train, validation, test, labels_known_ms, days)
        baselines = fit_all(
            data,
            lambda name, done, total, days=days: on_progress(f"{name}, {days} days", done, total),
            baseline_models,
        )
        predictions = {name: getattr(each, split_name) for name, each in baselines.items()}
        report[f"{days}_days"] = {
            **compare_values(
                streams.user_W[moments.window_M],
                outcomes(streams, moments, days),
                model(moments, days),
                predictions,
            ),
            "chosen": {name: each.chosen_settings for name, each in baselines.items()},
        }
    return report


def compare_values(
    user_M: np.ndarray,
    truth: Outcomes,
    model: Predictions,
    baselines: Mapping[str, Predictions],
) -> dict[str, Any]:
    """Metrics by target: churn, spend, days. `model_over` has 95 % intervals over users.

    Churn is None if only one class occurs. Constant predictions have no Spearman correlation.
    """
    bootstrap = UserBootstrap(user_M)
    predictions = {"model": model, **baselines}
    report: dict[str, Any] = {"moments": len(user_M), "users": len(np.unique(user_M))}
    report["churn"] = None
    if truth.churned_M.any() and not truth.churned_M.all():
        report["churn"] = {"share": round(float(truth.churned_M.mean()), 4)}
        for name, each in predictions.items():
            if each.churn_W is None:
                continue
            auc = roc_auc_score(truth.churned_M, each.churn_W)
            report["churn"][name] = {"auc": round(float(auc), 4)}
            if name != "model" and model.churn_W is not None:
                difference = bootstrap.auc(model.churn_W, each.churn_W, truth.churned_M)
                report["churn"][name]["model_over"] = _rounded(difference)
    for target, true_M in (("spend", truth.spend_M), ("days", truth.days_M)):
        report[target] = {"mean": round(float(true_M.mean()), 4)}
        ours_M = getattr(model, f"{target}_W")
        for name, each in predictions.items():
            value_M = getattr(each, f"{target}_W")
            if value_M is None:
                continue
            errors: dict[str, Any] = {"mae": round(float(np.abs(value_M - true_M).mean()), 4)}
            if _vary(value_M, true_M):
                errors["spearman"] = round(float(spearmanr(value_M, true_M).statistic), 4)
            if name != "model" and ours_M is not None:
                errors["model_over"] = {"mae": _rounded(bootstrap.mae(ours_M, value_M, true_M))}
                if _vary(ours_M, value_M, true_M):
                    difference = bootstrap.spearman(ours_M, value_M, true_M)
                    errors["model_over"]["spearman"] = _rounded(difference)
            report[target][name] = errors
    return report


def _vary(*columns: np.ndarray) -> bool:
    """Whether none of the columns is constant: a constant has no rank correlation."""
    return all(np.ptp(column) > 0 for column in columns)


def _rounded(interval: tuple[float, ...]) -> list[float]:
    return [round(value, 4) for value in interval]
