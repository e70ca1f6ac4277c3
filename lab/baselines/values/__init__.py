"""Baseline models of churn, spend and time to the next purchase, tuned on validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from lab.baselines.values import boosting, linear, own_gap
from lab.baselines.values.data import BaselineData, BaselinePredictions
from liveprofile.progress import Progress
from models.profile.data.examples import Corpus
from models.profile.data.moments import Moments, moment_ranges_ms
from models.profile.data.prepared import split_by_time
from models.profile.evaluation.any_time import Baseline
from models.profile.recipes import Recipe

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


def fit_moments(
    corpus: Corpus,
    recipe: Recipe,
    train: Moments,
    validation: Moments,
    measured: Moments,
    days: int,
    on_progress: Progress,
    models: Mapping[str, Fit] = MODELS,
) -> dict[str, Baseline]:
    """As `any_time.linear_baselines` of the product, of each of `models`."""
    streams = corpus.streams
    split = split_by_time(recipe, streams.end_ms_W)
    known_ms = moment_ranges_ms(streams, split, days)[1][0]
    data = BaselineData.from_moments(streams, train, validation, measured, known_ms, days)
    fitted = fit_all(data, on_progress, models)
    return {name: Baseline(each.test, each.chosen_settings) for name, each in fitted.items()}
