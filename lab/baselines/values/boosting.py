"""Gradient boosting (Chen and Guestrin 2016, arXiv:1603.02754) on RFM features.

Churn is fitted with the logistic loss, spend with the squared or the absolute error, the time to
the next purchase with the absolute error. Validation
decides the number of rounds (early stopping), the other settings and the loss of spend.

Shape suffixes: W moments, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from xgboost import XGBClassifier, XGBRegressor

from lab.baselines.values.data import (
    BaselineData,
    BaselinePredictions,
    Labelled,
    choose_for_each,
)

COMMON = {
    "n_estimators": 2_000,
    "early_stopping_rounds": 50,
    "subsample": 0.8,
    "colsample_bytree": 0.5,
    "tree_method": "hist",
    # Several threads busy-wait for each other: see lab.card_transactions.baselines.
    "n_jobs": 1,
    "random_state": 20170930,
}
CHURN_GRID = [
    {"max_depth": depth, "min_child_weight": weight, "learning_rate": rate}
    for depth, weight, rate in product((1, 2, 3, 5), (1, 10), (0.02, 0.05))
]
SPEND_GRID = [
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
DAYS_GRID = [
    {"max_depth": depth, "min_child_weight": 50, "learning_rate": 0.05} for depth in (3, 5)
]


class _ChurnModel(NamedTuple):
    model: XGBClassifier
    x_WF: np.ndarray

    def __call__(self, index_W: np.ndarray) -> np.ndarray:
        return self.model.predict_proba(self.x_WF[index_W])[:, 1]


class _NonNegativeModel(NamedTuple):
    model: XGBRegressor
    x_WF: np.ndarray

    def __call__(self, index_W: np.ndarray) -> np.ndarray:
        return np.maximum(self.model.predict(self.x_WF[index_W]), 0.0)


def predictions(data: BaselineData, on_fit: Callable[[int, int], None]) -> BaselinePredictions:
    """Churn as a probability, spend and time of at least 0."""
    x_WF = data.rfm.values_WF

    def fit_churn(settings: dict[str, Any]) -> _ChurnModel:
        model = XGBClassifier(eval_metric="auc", **COMMON, **settings)
        return _ChurnModel(_fit(model, data, lambda labelled: labelled.churned_W), x_WF)

    def fit_spend(settings: dict[str, Any]) -> _NonNegativeModel:
        model = XGBRegressor(eval_metric="mae", **COMMON, **settings)
        return _NonNegativeModel(_fit(model, data, lambda labelled: labelled.spend_W), x_WF)

    def fit_days(settings: dict[str, Any]) -> _NonNegativeModel:
        model = XGBRegressor(objective="reg:absoluteerror", eval_metric="mae", **COMMON, **settings)
        return _NonNegativeModel(_fit(model, data, lambda labelled: labelled.days_W), x_WF)

    settings, models = choose_for_each(
        data,
        on_fit,
        churn=(CHURN_GRID, fit_churn),
        spend=(SPEND_GRID, fit_spend),
        days=(DAYS_GRID, fit_days),
    )
    rounds = {target: each.model.best_iteration + 1 for target, each in models.items()}
    chosen = {target: each | {"rounds": rounds[target]} for target, each in settings.items()}
    return BaselinePredictions.from_models(data, chosen, **models)


def _fit(
    model: XGBClassifier | XGBRegressor,
    data: BaselineData,
    label: Callable[[Labelled], np.ndarray],
) -> Any:
    x_WF, train, validation = data.rfm.values_WF, data.train, data.validation
    eval_set = [(x_WF[validation.index_W], label(validation))]
    return model.fit(x_WF[train.index_W], label(train), eval_set=eval_set, verbose=False)
