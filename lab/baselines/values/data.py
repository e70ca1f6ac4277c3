"""Input, tuning and output of every baseline model of churn, spend and time to the next purchase.

Predictions are made at moments (models/profile/data/moments.py). Settings are tuned on
validation only; the test moments have no labels here.

Shape suffix: W moments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score

from lab.baselines.values.rfm import RfmFeatures, rfm_features
from models.profile.data.moments import Moments, Outcomes, outcomes
from models.profile.data.training_rows import Streams
from models.profile.evaluation.any_time import Predictions


class Labelled(NamedTuple):
    """Moments whose outcomes are known."""

    index_W: np.ndarray  # rows of BaselineData.rfm
    churned_W: np.ndarray  # no purchase within the horizon
    spend_W: np.ndarray  # within the horizon, currency
    days_W: np.ndarray  # to the next purchase, at most the horizon

    @property
    def has_both_classes(self) -> bool:
        """Whether some users churned and some did not."""
        return bool(self.churned_W.any() and not self.churned_W.all())


Predict = Callable[[np.ndarray], np.ndarray]  # (W,) rows of BaselineData.rfm to (W,) predictions
Loss = Callable[[Labelled, np.ndarray], float]  # of (W,) predictions; lower is better


class BaselineData(NamedTuple):
    """Moments by split, with their features. Training labels are known by `train_until_ms`."""

    streams: Streams
    rfm: RfmFeatures
    train: Labelled
    validation: Labelled
    test_W: np.ndarray  # rows of the features
    train_until_ms: int
    horizon_days: int

    @classmethod
    def from_moments(
        cls,
        streams: Streams,
        train: Moments,
        validation: Moments,
        test: Moments,
        train_until_ms: int,
        horizon_days: int,
    ) -> BaselineData:
        first, second, end = np.cumsum([len(each.window_M) for each in (train, validation, test)])

        def labelled(moments: Moments, rows: np.ndarray) -> Labelled:
            known: Outcomes = outcomes(streams, moments, horizon_days)
            return Labelled(rows, *known)

        return cls(
            streams,
            rfm_features(streams, _joined(train, validation, test)),
            labelled(train, np.arange(first)),
            labelled(validation, np.arange(first, second)),
            np.arange(second, end),
            train_until_ms,
            horizon_days,
        )


def _joined(*moments: Moments) -> Moments:
    return Moments(*map(np.concatenate, zip(*moments, strict=True)))


class BaselinePredictions(NamedTuple):
    validation: Predictions
    test: Predictions
    chosen_settings: dict[str, Any]  # by target: "churn", "spend", "days"

    @classmethod
    def from_models(
        cls,
        data: BaselineData,
        chosen_settings: dict[str, Any],
        churn: Predict | None = None,
        spend: Predict | None = None,
        days: Predict | None = None,
    ) -> BaselinePredictions:
        """Predicts at the moments of validation and test."""
        predictions = (
            Predictions(*(model and model(index_W) for model in (churn, spend, days)))
            for index_W in (data.validation.index_W, data.test_W)
        )
        return cls(*predictions, chosen_settings)


def choose_settings(
    data: BaselineData,
    grid: list[dict[str, Any]],
    fit: Callable[[dict[str, Any]], Predict],
    loss: Loss,
    on_fit: Callable[[int, int], None],
) -> tuple[dict[str, Any], Predict]:
    """Fits each setting of the grid and returns the one with the least validation loss (the first
    of ties) with its model.

    `on_fit` receives the number of settings tried and their total.
    """
    best_loss, best = np.inf, None
    for number, settings in enumerate(grid, 1):
        predict = fit(settings)
        validation_loss = loss(data.validation, predict(data.validation.index_W))
        if best is None or validation_loss < best_loss:
            best_loss, best = validation_loss, (settings, predict)
        on_fit(number, len(grid))
    return best


def ranking_loss(labelled: Labelled, churn_W: np.ndarray) -> float:
    """1 - area under the ROC curve."""
    return 1 - float(roc_auc_score(labelled.churned_W, churn_W))


def absolute_error(labelled: Labelled, spend_W: np.ndarray) -> float:
    """Mean absolute error, in currency."""
    return float(np.abs(spend_W - labelled.spend_W).mean())


def absolute_days_error(labelled: Labelled, days_W: np.ndarray) -> float:
    """Mean absolute error of the time to the next purchase, in days."""
    return float(np.abs(days_W - labelled.days_W).mean())


LOSSES: dict[str, Loss] = {
    "churn": ranking_loss,
    "spend": absolute_error,
    "days": absolute_days_error,
}


def choose_for_each(
    data: BaselineData,
    on_fit: Callable[[int, int], None],
    **targets: tuple[list[dict[str, Any]], Callable[[dict[str, Any]], Predict]],
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The settings and the model that `choose_settings` returns, for each target.

    targets: the grid and the fit of each. `on_fit` counts the fits of all.
    """
    total, before = sum(len(grid) for grid, _ in targets.values()), 0
    settings, models = {}, {}
    for target, (grid, fit) in targets.items():

        def on_try(done: int, _: int, before: int = before) -> None:
            on_fit(before + done, total)

        settings[target], models[target] = choose_settings(data, grid, fit, LOSSES[target], on_try)
        before += len(grid)
    return settings, models
