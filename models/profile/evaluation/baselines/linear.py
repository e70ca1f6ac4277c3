"""Linear and logistic regression by gradient descent on all rows at once.

Inputs are standardised. Steps are Nesterov's (1983) with the gradient restart of O'Donoghue and
Candès 2015, arXiv:1204.3982, at a length of one over the gradient's Lipschitz constant, so nothing
has to be tuned for them to converge.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from models.profile.evaluation.baselines.data import (
    Data,
    Predict,
    Predictions,
    absolute_error,
    choose,
    ranking_loss,
)

MAX_STEPS = 20_000
TOLERANCE = 1e-6  # largest part of the gradient, of a target scaled to deviate by 1

SETTINGS = [
    {"inputs": inputs, "l2": l2}
    for inputs, l2 in product(("as they are", "log1p"), (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0))
]


class Linear(NamedTuple):
    """bias + x_NF @ weight_F."""

    weight_F: np.ndarray
    bias: float

    def __call__(self, x_NF: np.ndarray) -> np.ndarray:
        return x_NF @ self.weight_F + self.bias


def linear_regression(x_NF: np.ndarray, y_N: np.ndarray, l2: float = 0.0) -> Linear:
    """Half the mean squared error plus l2 / 2 times the squared weights (of standardised inputs).

    Raises ArithmeticError if MAX_STEPS don't suffice.
    """
    y_N = torch.from_numpy(np.asarray(y_N, float))
    mean, scale = y_N.mean(), y_N.std(correction=0).clamp(min=1e-12)
    target_N = (y_N - mean) / scale
    weight_F, bias = _descend(x_NF, lambda predicted_N: predicted_N - target_N, 1.0, l2)
    return Linear(weight_F * float(scale), bias * float(scale) + float(mean))


def logistic_regression(x_NF: np.ndarray, true_N: np.ndarray, l2: float = 0.0) -> Linear:
    """Mean cross-entropy plus l2 / 2 times the squared weights (of standardised inputs).

    Returns the log odds. Raises ArithmeticError if MAX_STEPS don't suffice.
    """
    true_N = torch.from_numpy(np.asarray(true_N, float))
    weight_F, bias = _descend(x_NF, lambda logit_N: logit_N.sigmoid() - true_N, 0.25, l2)
    return Linear(weight_F, bias)


def linear_predictions(data: Data, on_fit: Callable[[int, int], None]) -> Predictions:
    """Spend by the least squares, not below 0; inputs and `l2` chosen by the absolute error."""

    def fit(settings: dict[str, Any]) -> Predict:
        x_WF = _inputs(data, settings["inputs"])
        train = data.train
        model = linear_regression(x_WF[train.windows_W], train.spend_W, settings["l2"])
        return lambda windows_W: np.maximum(model(x_WF[windows_W]), 0.0)

    settings, spend = choose(data, SETTINGS, fit, absolute_error, on_fit)
    return Predictions.of(data, {"spend": settings}, spend=spend)


def logistic_predictions(data: Data, on_fit: Callable[[int, int], None]) -> Predictions:
    """Churn as a probability; inputs and `l2` chosen by the area under the ROC curve."""

    def fit(settings: dict[str, Any]) -> Predict:
        x_WF = _inputs(data, settings["inputs"])
        train = data.train
        model = logistic_regression(x_WF[train.windows_W], train.left_W, settings["l2"])
        return lambda windows_W: expit(model(x_WF[windows_W]))

    settings, churn = choose(data, SETTINGS, fit, ranking_loss, on_fit)
    return Predictions.of(data, {"churn": settings}, churn=churn)


def _inputs(data: Data, kind: str) -> np.ndarray:
    values_WF = data.rfm.values_WF
    return np.log1p(np.maximum(values_WF, 0.0)) if kind == "log1p" else values_WF


def _descend(
    x_NF: np.ndarray, slope: Callable[[Tensor], Tensor], curvature: float, l2: float
) -> tuple[np.ndarray, float]:
    """`slope`: of each row's loss by its prediction; `curvature`: the most that slope changes."""
    mean_F, std_F = x_NF.mean(0), x_NF.std(0)
    std_F = np.where(std_F > 1e-9 * np.abs(mean_F), std_F, np.inf)  # a constant says nothing
    z_NG = torch.from_numpy(np.column_stack([(x_NF - mean_F) / std_F, np.ones(len(x_NF))]))
    gram_GG = z_NG.T @ z_NG / len(z_NG)
    step = 1 / (curvature * float(torch.linalg.eigvalsh(gram_GG)[-1]) + l2)
    decay_G = torch.full((z_NG.shape[1],), l2, dtype=z_NG.dtype)
    decay_G[-1] = 0.0  # not the bias
    at_G = ahead_G = torch.zeros_like(decay_G)
    momentum = 1.0
    for _ in range(MAX_STEPS):
        gradient_G = z_NG.T @ slope(z_NG @ ahead_G) / len(z_NG) + decay_G * ahead_G
        if gradient_G.abs().max() < TOLERANCE:
            weight_F = ahead_G[:-1].numpy() / std_F
            return weight_F, float(ahead_G[-1]) - float(mean_F @ weight_F)
        next_G = ahead_G - step * gradient_G
        moved_G = next_G - at_G
        if gradient_G @ moved_G > 0:
            momentum, ahead_G = 1.0, next_G  # it overshot
        else:
            grown = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            ahead_G = next_G + (momentum - 1) / grown * moved_G
            momentum = grown
        at_G = next_G
    raise ArithmeticError(f"regression: no convergence in {MAX_STEPS} steps; take a larger l2")
