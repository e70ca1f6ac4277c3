"""Baseline models of churn, spend and time to the next purchase, tuned on validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from liveprofile.progress import Progress
from models.profile.evaluation.baseline_models import boosting, linear, own_gap
from models.profile.evaluation.baseline_models.data import BaselineData, BaselinePredictions

# From the data and a callback for its progress; None if a fit does not converge.
Fit = Callable[[BaselineData, Callable[[int, int], None]], BaselinePredictions | None]
MODELS: dict[str, Fit] = {
    "linear_regression": linear.linear_predictions,
    "logistic_regression": linear.logistic_predictions,
    "xgboost": boosting.predictions,
    "own_gap": own_gap.predictions,
}


def fit_all(
    data: BaselineData,
    on_progress: Progress = lambda stage, done, total: None,
    models: Mapping[str, Fit] = MODELS,
) -> dict[str, BaselinePredictions]:
    """Fits each baseline model and predicts at the moments of validation and test.

    Returns an empty dict if training or validation have one class only (all users churned or none).
    Leaves out models whose fits do not converge.
    """
    if not (data.train.has_both_classes and data.validation.has_both_classes):
        return {}
    predictions = {name: fit(data, partial(on_progress, name)) for name, fit in models.items()}
    return {name: result for name, result in predictions.items() if result is not None}
