"""Spend by linear regression and churn by logistic regression on standardised inputs.

Shape suffixes: W moments, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lab.baselines.values.data import (
    BaselineData,
    BaselinePredictions,
    Predict,
    absolute_error,
    choose_settings,
    ranking_loss,
)

# l2: of the mean loss, so that it does not depend on the number of moments.
SETTINGS_GRID = [
    {"inputs": inputs, "l2": l2}
    for inputs, l2 in product(("as they are", "log1p"), (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0))
]


def linear_predictions(
    data: BaselineData, on_fit: Callable[[int, int], None]
) -> BaselinePredictions:
    """Spend by least squares, at least 0; `inputs` and `l2` are chosen by the absolute error."""

    def fit(settings: dict[str, Any]) -> Predict:
        x_WF, train = _inputs(data, settings["inputs"]), data.train
        model = make_pipeline(StandardScaler(), Ridge(alpha=len(train.index_W) * settings["l2"]))
        model.fit(x_WF[train.index_W], train.spend_W)
        return lambda index_W: np.maximum(model.predict(x_WF[index_W]), 0.0)

    settings, spend = choose_settings(data, SETTINGS_GRID, fit, absolute_error, on_fit)
    return BaselinePredictions.from_models(data, {"spend": settings}, spend=spend)


def logistic_predictions(
    data: BaselineData, on_fit: Callable[[int, int], None]
) -> BaselinePredictions:
    """Churn as a probability; `inputs` and `l2` are chosen by the area under the ROC curve."""

    def fit(settings: dict[str, Any]) -> Predict:
        x_WF, train = _inputs(data, settings["inputs"]), data.train
        strength = 1 / (len(train.index_W) * settings["l2"])
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1_000))
        model.fit(x_WF[train.index_W], train.churned_W)
        return lambda index_W: model.predict_proba(x_WF[index_W])[:, 1]

    settings, churn = choose_settings(data, SETTINGS_GRID, fit, ranking_loss, on_fit)
    return BaselinePredictions.from_models(data, {"churn": settings}, churn=churn)


def _inputs(data: BaselineData, kind: str) -> np.ndarray:
    values_WF = data.rfm.values_WF
    return np.log1p(np.maximum(values_WF, 0.0)) if kind == "log1p" else values_WF
