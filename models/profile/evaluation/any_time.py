"""Churn, spend and time to the next purchase at any time, compared with baseline models.

Measured at month ends and at random times, for every user seen so far (see
models/profile/data/moments.py), for several horizons. A moment belongs to the split in which
its horizon ends. The baseline models train on moments whose horizons end before those of validation
begin.

The model's values are the stored ones: those of the user's last window, however old it is, read at
the moment if they are curves.

Shape suffixes: M moments, W windows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from liveprofile.progress import Progress
from models.profile.data.moments import (
    HORIZONS_DAYS,
    Moments,
    Outcomes,
    moment_ranges_ms,
    outcomes,
)
from models.profile.data.training_rows import Streams
from models.profile.evaluation.intervals import UserBootstrap

if TYPE_CHECKING:
    from models.profile.data.prepared import Split

TRAINING_MOMENTS_PER_USER = 12
MOMENTS_PER_USER = 3
SEED = 20170930


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
    split_name: Literal["validation", "test"],
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
