"""Linear and logistic regression by full-batch gradient descent.

Inputs are standardised. Steps are Nesterov's (1983) with the gradient restart of O'Donoghue and
Candès 2015, arXiv:1204.3982. The step length is one over the gradient's Lipschitz constant, so
convergence needs no tuning.

Shape suffixes: N rows, W moments, F features, G = F + 1 features and the bias.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from models.profile.evaluation.baseline_models.data import (
    BaselineData,
    BaselinePredictions,
    Predict,
    absolute_error,
    choose_settings,
    ranking_loss,
)

MAX_STEPS = 20_000
TOLERANCE = 1e-6  # largest gradient component, for a target scaled to a standard deviation of 1

SETTINGS_GRID = [
    {"inputs": inputs, "l2": l2}
    for inputs, l2 in product(("as they are", "log1p"), (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0))
]


class LinearModel(NamedTuple):
    """Predicts bias + x_NF @ weight_F."""

    weight_F: np.ndarray
    bias: float

    def __call__(self, x_NF: np.ndarray) -> np.ndarray:
        return x_NF @ self.weight_F + self.bias


def linear_regression(x_NF: np.ndarray, y_N: np.ndarray, l2: float = 0.0) -> LinearModel:
    """Minimises half the mean squared error plus l2 / 2 times the squared weights.

    The penalty applies to weights of standardised inputs. Raises ArithmeticError if MAX_STEPS do
    not suffice.
    """
    y_N = torch.from_numpy(np.asarray(y_N, float))
    mean, scale = y_N.mean(), y_N.std(correction=0).clamp(min=1e-12)
    target_N = (y_N - mean) / scale
    weight_F, bias = _minimise(x_NF, lambda predicted_N: predicted_N - target_N, 1.0, l2)
    return LinearModel(weight_F * float(scale), bias * float(scale) + float(mean))


def logistic_regression(x_NF: np.ndarray, true_N: np.ndarray, l2: float = 0.0) -> LinearModel:
    """Minimises the mean cross-entropy plus l2 / 2 times the squared weights.

    The penalty applies to weights of standardised inputs. The model predicts log odds. Raises
    ArithmeticError if MAX_STEPS do not suffice.
    """
    true_N = torch.from_numpy(np.asarray(true_N, float))
    weight_F, bias = _minimise(x_NF, lambda logit_N: logit_N.sigmoid() - true_N, 0.25, l2)
    return LinearModel(weight_F, bias)


def linear_predictions(
    data: BaselineData, on_fit: Callable[[int, int], None]
) -> BaselinePredictions:
    """Spend by least squares, at least 0; `inputs` and `l2` are chosen by the absolute error."""

    def fit(settings: dict[str, Any]) -> Predict:
        x_WF = _inputs(data, settings["inputs"])
        train = data.train
        model = linear_regression(x_WF[train.index_W], train.spend_W, settings["l2"])
        return lambda index_W: np.maximum(model(x_WF[index_W]), 0.0)

    settings, spend = choose_settings(data, SETTINGS_GRID, fit, absolute_error, on_fit)
    return BaselinePredictions.from_models(data, {"spend": settings}, spend=spend)


def logistic_predictions(
    data: BaselineData, on_fit: Callable[[int, int], None]
) -> BaselinePredictions:
    """Churn as a probability; `inputs` and `l2` are chosen by the area under the ROC curve."""

    def fit(settings: dict[str, Any]) -> Predict:
        x_WF = _inputs(data, settings["inputs"])
        train = data.train
        model = logistic_regression(x_WF[train.index_W], train.churned_W, settings["l2"])
        return lambda index_W: expit(model(x_WF[index_W]))

    settings, churn = choose_settings(data, SETTINGS_GRID, fit, ranking_loss, on_fit)
    return BaselinePredictions.from_models(data, {"churn": settings}, churn=churn)


def _inputs(data: BaselineData, kind: str) -> np.ndarray:
    values_WF = data.rfm.values_WF
    return np.log1p(np.maximum(values_WF, 0.0)) if kind == "log1p" else values_WF


def _minimise(
    x_NF: np.ndarray, slope: Callable[[Tensor], Tensor], curvature: float, l2: float
) -> tuple[np.ndarray, float]:
    """Returns the (F,) weights and the bias with the least loss.

    `slope` is the derivative of each row's loss with respect to its (N,) predictions; `curvature`
    bounds the derivative of the slope.
    """
    mean_F, std_F = x_NF.mean(0), x_NF.std(0)
    std_F = np.where(std_F > 1e-9 * np.abs(mean_F), std_F, np.inf)  # constants get weight 0
    z_NG = torch.from_numpy(np.column_stack([(x_NF - mean_F) / std_F, np.ones(len(x_NF))]))
    gram_GG = z_NG.T @ z_NG / len(z_NG)
    step = 1 / (curvature * float(torch.linalg.eigvalsh(gram_GG)[-1]) + l2)
    decay_G = torch.full((z_NG.shape[1],), l2, dtype=z_NG.dtype)
    decay_G[-1] = 0.0  # the bias is not penalised
    weight_G = lookahead_G = torch.zeros_like(decay_G)
    momentum = 1.0
    for _ in range(MAX_STEPS):
        gradient_G = z_NG.T @ slope(z_NG @ lookahead_G) / len(z_NG) + decay_G * lookahead_G
        if gradient_G.abs().max() < TOLERANCE:
            weight_F = lookahead_G[:-1].numpy() / std_F
            return weight_F, float(lookahead_G[-1]) - float(mean_F @ weight_F)
        next_G = lookahead_G - step * gradient_G
        change_G = next_G - weight_G
        if gradient_G @ change_G > 0:
            momentum, lookahead_G = 1.0, next_G  # restart after an overshoot
        else:
            next_momentum = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            lookahead_G = next_G + (momentum - 1) / next_momentum * change_G
            momentum = next_momentum
        weight_G = next_G
    raise ArithmeticError(f"regression: no convergence in {MAX_STEPS} steps; use a larger l2")
