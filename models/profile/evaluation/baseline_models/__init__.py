"""Baseline models of churn and spend, tuned on validation like the user model."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from liveprofile.progress import Progress
from models.profile.data.examples import Corpus
from models.profile.evaluation.baseline_models import bgnbd, boosting, linear, lstm
from models.profile.evaluation.baseline_models.data import BaselineData, BaselinePredictions

if TYPE_CHECKING:
    from models.profile.data.prepared import Split


def fit_all(
    corpus: Corpus, split: Split, on_progress: Progress = lambda stage, done, total: None
) -> dict[str, BaselinePredictions]:
    """Fits each baseline model and predicts the labelled validation and test windows.

    Returns an empty dict if training or validation have one class only (all windows churned or
    none), or if no test label is known. Leaves out "bg_nbd" if its fits do not converge.
    """
    data = BaselineData.from_corpus(corpus, split)
    if not (data.train.has_both_classes and data.validation.has_both_classes and len(data.test_W)):
        return {}
    predictions = {
        name: fit(data, partial(on_progress, name))
        for name, fit in {
            "linear_regression": linear.linear_predictions,
            "logistic_regression": linear.logistic_predictions,
            "xgboost": boosting.predictions,
            "bg_nbd": bgnbd.predictions,
            "lstm": lstm.predictions,
        }.items()
    }
    return {name: result for name, result in predictions.items() if result is not None}
