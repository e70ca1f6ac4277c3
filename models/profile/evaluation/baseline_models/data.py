"""Input, tuning and output of every baseline model of churn and spend.

Predictions are made at a window's end. Settings are tuned on validation only; the test windows have
no labels here.

Shape suffix: W windows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score

from models.profile.data.examples import Corpus
from models.profile.evaluation.baseline_models.rfm import RfmFeatures, rfm_features

if TYPE_CHECKING:
    from models.profile.data.prepared import Split


class LabelledWindows(NamedTuple):
    """Windows whose labels are known."""

    windows_W: np.ndarray
    churned_W: np.ndarray  # no purchase within the horizon
    spend_W: np.ndarray  # within the horizon, currency

    @property
    def has_both_classes(self) -> bool:
        """Whether some windows churned and some did not."""
        return bool(self.churned_W.any() and not self.churned_W.all())


Predict = Callable[[np.ndarray], np.ndarray]  # (W,) windows to (W,) predictions
Loss = Callable[[LabelledWindows, np.ndarray], float]  # of (W,) predictions; lower is better


class BaselineData(NamedTuple):
    """Windows by split. Training labels are known by `train_until_ms`, validation labels later."""

    corpus: Corpus
    rfm: RfmFeatures
    train: LabelledWindows
    validation: LabelledWindows
    test_W: np.ndarray  # windows whose labels are known by the end of the test period
    train_until_ms: int

    @classmethod
    def from_corpus(cls, corpus: Corpus, split: Split) -> BaselineData:
        """Validation includes training windows whose labels were unknown when training ended."""
        all_W = np.arange(len(corpus.streams.user_W))
        in_train_W = corpus.has_known_labels(all_W, split.train_until_ms)
        in_validation_W = corpus.has_known_labels(all_W, split.validation_until_ms) & ~in_train_W
        train, validation = (
            LabelledWindows(
                windows_W, corpus.purchases_W[windows_W] == 0, corpus.spend_W[windows_W]
            )
            for windows_W in (split.train[in_train_W[split.train]], np.flatnonzero(in_validation_W))
        )
        return cls(
            corpus,
            rfm_features(corpus.streams),
            train,
            validation,
            split.test[corpus.has_known_labels(split.test, split.test_until_ms)],
            split.train_until_ms,
        )


class WindowPredictions(NamedTuple):
    """Predictions for `windows_W`; None for what the baseline model does not predict."""

    windows_W: np.ndarray
    churn_W: np.ndarray | None  # higher is likelier
    spend_W: np.ndarray | None  # currency


class BaselinePredictions(NamedTuple):
    validation: WindowPredictions
    test: WindowPredictions
    chosen_settings: dict[str, Any]  # by target: "churn", "spend"

    @classmethod
    def from_models(
        cls,
        data: BaselineData,
        chosen_settings: dict[str, Any],
        churn: Predict | None = None,
        spend: Predict | None = None,
    ) -> BaselinePredictions:
        """Predicts the windows of validation and test."""
        predictions = (
            WindowPredictions(windows_W, churn and churn(windows_W), spend and spend(windows_W))
            for windows_W in (data.validation.windows_W, data.test_W)
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
        validation_loss = loss(data.validation, predict(data.validation.windows_W))
        if best is None or validation_loss < best_loss:
            best_loss, best = validation_loss, (settings, predict)
        on_fit(number, len(grid))
    return best


def ranking_loss(windows: LabelledWindows, churn_W: np.ndarray) -> float:
    """1 - area under the ROC curve."""
    return 1 - float(roc_auc_score(windows.churned_W, churn_W))


def absolute_error(windows: LabelledWindows, spend_W: np.ndarray) -> float:
    """Mean absolute error, in currency."""
    return float(np.abs(spend_W - windows.spend_W).mean())
