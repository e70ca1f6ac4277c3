"""Gradient boosting (Chen and Guestrin 2016, arXiv:1603.02754) on recency, frequency and monetary
value: churn by the logistic loss, spend by the squared or the absolute error.

Rounds stop early on validation, where the other settings and the loss of spend are chosen too.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from xgboost import XGBClassifier, XGBRegressor

from models.profile.evaluation.baselines.data import (
    Data,
    Part,
    Predictions,
    absolute_error,
    choose,
    ranking_loss,
)

COMMON = {
    "n_estimators": 2_000,
    "early_stopping_rounds": 50,
    "subsample": 0.8,
    "colsample_bytree": 0.5,
    "tree_method": "hist",
    "n_jobs": 1,  # several threads wait for each other in a loop: see models.fraud.card_transactions.train
    "random_state": 20170930,
}
CHURN = [
    {"max_depth": depth, "min_child_weight": weight, "learning_rate": rate}
    for depth, weight, rate in product((1, 2, 3, 5), (1, 10), (0.02, 0.05))
]
SPEND = [
    {
        "objective": objective,
        "max_depth": depth,
        "min_child_weight": weight,
        "learning_rate": 0.05,
    }
    for objective, depth, weight in product(
        ("reg:squarederror", "reg:absoluteerror"), (3, 5, 7), (5, 50, 200)
    )
]


class _Churn(NamedTuple):
    model: XGBClassifier
    x_WF: np.ndarray

    def __call__(self, windows_W: np.ndarray) -> np.ndarray:
        return self.model.predict_proba(self.x_WF[windows_W])[:, 1]


class _Spend(NamedTuple):
    model: XGBRegressor
    x_WF: np.ndarray

    def __call__(self, windows_W: np.ndarray) -> np.ndarray:
        return np.maximum(self.model.predict(self.x_WF[windows_W]), 0.0)


def predictions(data: Data, on_fit: Callable[[int, int], None]) -> Predictions:
    """Churn as a probability, and spend, not below 0."""
    x_WF, fits = data.rfm.values_WF, len(CHURN) + len(SPEND)

    def churn(settings: dict[str, Any]) -> _Churn:
        model = XGBClassifier(eval_metric="auc", **COMMON, **settings)
        return _Churn(_fitted(model, data, lambda part: part.left_W), x_WF)

    def spend(settings: dict[str, Any]) -> _Spend:
        model = XGBRegressor(eval_metric="mae", **COMMON, **settings)
        return _Spend(_fitted(model, data, lambda part: part.spend_W), x_WF)

    churn_settings, left = choose(
        data, CHURN, churn, ranking_loss, lambda done, _: on_fit(done, fits)
    )
    spend_settings, spent = choose(
        data, SPEND, spend, absolute_error, lambda done, _: on_fit(len(CHURN) + done, fits)
    )
    chosen = {
        "churn": {**churn_settings, "rounds": left.model.best_iteration + 1},
        "spend": {**spend_settings, "rounds": spent.model.best_iteration + 1},
    }
    return Predictions.of(data, chosen, left, spent)


def _fitted(
    model: XGBClassifier | XGBRegressor, data: Data, label: Callable[[Part], np.ndarray]
) -> Any:
    x_WF, train, validation = data.rfm.values_WF, data.train, data.validation
    asked = [(x_WF[validation.windows_W], label(validation))]
    return model.fit(x_WF[train.windows_W], label(train), eval_set=asked, verbose=False)
