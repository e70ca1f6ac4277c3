"""BG/NBD and Gamma-Gamma, fitted by maximum likelihood.

Fader, Hardie and Lee 2005, Marketing Science 24(2), doi:10.1287/mksc.1040.0098 (equations in
brackets below), and Fader and Hardie 2013, The Gamma-Gamma Model of Monetary Value. A penalty on
the squared parameters keeps them from growing without bound on little data.

Shape suffix: W users, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.optimize import minimize
from scipy.special import digamma, expit, gammaln, hyp2f1

START = 0.1  # of the logarithm of each parameter
GRADIENT_TOLERANCE = 1e-7

# The mean log likelihood and its derivatives by the parameters, of shape (P,).
Likelihood = Callable[[np.ndarray], tuple[float, np.ndarray]]


class NotConvergedError(ValueError):
    """The likelihood has no maximum that the search finds."""


@dataclass(frozen=True)
class BetaGeo:
    """BG/NBD: when users purchase, and whether they still do. alpha is in the unit of the times."""

    r: float
    alpha: float
    a: float
    b: float

    @classmethod
    def fit(
        cls, penalizer: float, repeats_W: np.ndarray, recency_W: np.ndarray, age_W: np.ndarray
    ) -> Self:
        """repeats: purchases after the first. recency, age: from the first one to the last one, and
        to now. Raises NotConvergedError.
        """
        scale = 1.0 / np.max(age_W)
        likelihood = _beta_geo_likelihood(repeats_W, recency_W * scale, age_W * scale)
        r, alpha, a, b = _most_likely(likelihood, 4, penalizer)
        return cls(r, alpha / scale, a, b)

    def probability_alive(
        self, repeats_W: np.ndarray, recency_W: np.ndarray, age_W: np.ndarray
    ) -> np.ndarray:
        """(W,) probability that a user will purchase again at any time."""
        with np.errstate(divide="ignore"):
            log_odds_gone_W = np.log(self.a / (self.b + np.maximum(repeats_W, 1) - 1)) + (
                self.r + repeats_W
            ) * np.log((self.alpha + age_W) / (self.alpha + recency_W))
        return np.where(repeats_W == 0, 1.0, expit(-log_odds_gone_W))

    def expected_purchases(
        self, time: float, repeats_W: np.ndarray, recency_W: np.ndarray, age_W: np.ndarray
    ) -> np.ndarray:
        """(W,) expected purchases within a time (10)."""
        a, b, rate_W, shape_W = self.a, self.b, self.alpha + age_W, self.r + repeats_W
        first_W, second_W, third_W = shape_W, b + repeats_W, a + b + repeats_W - 1
        z_W = time / (rate_W + time)
        with np.errstate(all="ignore"):
            hyper_W = hyp2f1(first_W, second_W, third_W, z_W)
            # Euler's transformation, where the series is too large for a double.
            log_hyper_W = np.where(
                np.isinf(hyper_W),
                np.log(hyp2f1(third_W - first_W, third_W - second_W, third_W, z_W))
                + (third_W - first_W - second_W) * np.log1p(-z_W),
                np.log(hyper_W),
            )
            log_ratio_W = shape_W * np.log(rate_W / (rate_W + time))
            # Without repeats and with a + b < 1, the function is negative.
            product_W = np.where(
                repeats_W == 0, hyper_W * np.exp(log_ratio_W), np.exp(log_hyper_W + log_ratio_W)
            )
            expected_W = third_W / (a - 1) * (1 - product_W)
        return expected_W * self.probability_alive(repeats_W, recency_W, age_W)


@dataclass(frozen=True)
class GammaGamma:
    """What users spend on a purchase."""

    p: float
    q: float
    v: float

    @classmethod
    def fit(cls, penalizer: float, purchases_W: np.ndarray, mean_W: np.ndarray) -> Self:
        """mean: amount of a purchase, above 0. Raises NotConvergedError."""
        return cls(*_most_likely(_gamma_gamma_likelihood(purchases_W, mean_W), 3, penalizer))

    def expected_amount(self, purchases_W: np.ndarray, mean_W: np.ndarray) -> np.ndarray:
        """(W,) expected amount of the next purchase: between the user's mean and that of all."""
        own_W = self.p * purchases_W / (self.p * purchases_W + self.q - 1)
        return (1 - own_W) * self.v * self.p / (self.q - 1) + own_W * mean_W


def _most_likely(likelihood: Likelihood, parameters: int, penalizer: float) -> list[float]:
    """(P,) positive parameters of the highest penalised likelihood. Raises NotConvergedError."""

    def loss(log_P: np.ndarray) -> tuple[float, np.ndarray]:
        values_P = np.exp(log_P)
        mean, derivatives_P = likelihood(values_P)
        penalty_P = penalizer * values_P**2
        return penalty_P.sum() - mean, 2 * penalty_P - derivatives_P * values_P

    with np.errstate(all="ignore"):
        found = minimize(
            loss, np.full(parameters, START), jac=True, method="BFGS", tol=GRADIENT_TOLERANCE
        )
    if not found.success or not np.isfinite(found.x).all():
        raise NotConvergedError(found.message)
    return np.exp(found.x).tolist()


def _beta_geo_likelihood(x_W: np.ndarray, recency_W: np.ndarray, age_W: np.ndarray) -> Likelihood:
    """(6), in the form that does not overflow."""
    dropped_W = x_W > 0

    def likelihood(values_P: np.ndarray) -> tuple[float, np.ndarray]:
        r, alpha, a, b = values_P
        log_age_W, log_recency_W = np.log(alpha + age_W), np.log(alpha + recency_W)
        last_W = b + np.maximum(x_W, 1) - 1
        alive_W = -(r + x_W) * log_age_W
        gone_W = np.where(
            dropped_W, np.log(a) - np.log(last_W) - (r + x_W) * log_recency_W, -np.inf
        )
        either_W = np.logaddexp(alive_W, gone_W)
        share_W = np.exp(gone_W - either_W)  # of the users who are gone
        mean = np.mean(
            gammaln(r + x_W)
            - gammaln(r)
            + r * np.log(alpha)
            + gammaln(a + b)
            + gammaln(b + x_W)
            - gammaln(b)
            - gammaln(a + b + x_W)
            + either_W
        )
        log_W = (1 - share_W) * log_age_W + share_W * log_recency_W
        inverse_W = (1 - share_W) / (alpha + age_W) + share_W / (alpha + recency_W)
        both_W = digamma(a + b) - digamma(a + b + x_W)
        derivatives = (
            digamma(r + x_W) - digamma(r) + np.log(alpha) - log_W,
            r / alpha - (r + x_W) * inverse_W,
            both_W + share_W / a,
            both_W + digamma(b + x_W) - digamma(b) - share_W / last_W,
        )
        return mean, np.array([each.mean() for each in derivatives])

    return likelihood


def _gamma_gamma_likelihood(x_W: np.ndarray, mean_W: np.ndarray) -> Likelihood:
    """Equation (1a) of the note."""

    def likelihood(values_P: np.ndarray) -> tuple[float, np.ndarray]:
        p, q, v = values_P
        log_sum_W = np.log(x_W * mean_W + v)
        mean = np.mean(
            gammaln(p * x_W + q)
            - gammaln(p * x_W)
            - gammaln(q)
            + q * np.log(v)
            + (p * x_W - 1) * np.log(mean_W)
            + p * x_W * np.log(x_W)
            - (p * x_W + q) * log_sum_W
        )
        both_W = digamma(p * x_W + q)
        derivatives = (
            x_W * (both_W - digamma(p * x_W) + np.log(mean_W) + np.log(x_W) - log_sum_W),
            both_W - digamma(q) + np.log(v) - log_sum_W,
            q / v - (p * x_W + q) / (x_W * mean_W + v),
        )
        return mean, np.array([each.mean() for each in derivatives])

    return likelihood
