"""Fits a link of a longer horizon (models/profile/values/links.py).

Shape suffix: M examples.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logit
from sklearn.linear_model import LogisticRegression

from models.profile.values.links import SMALLEST, HorizonLinks

MIN_SPEND = 1e-3  # currency; a smaller prediction says nothing about the ratio


def fit_link(
    links: HorizonLinks,
    link: int,
    first_M2: np.ndarray,
    churned_M: np.ndarray,
    spend_M: np.ndarray,
) -> None:
    """Fits one link to the first horizon's churn and spend and the outcomes of its own.

    If all users churned or none did, churn stays that of the first horizon.
    """
    if np.ptp(churned_M):
        logit_M = logit(np.clip(first_M2[:, 0].astype(float), SMALLEST, 1 - SMALLEST))
        found = LogisticRegression().fit(logit_M[:, None], churned_M)
        links.intercept[link] = float(found.intercept_[0])
        links.slope[link] = max(float(found.coef_[0, 0]), 0.0)
    links.spend_ratio[link] = _ratio(first_M2[:, 1].astype(float), spend_M.astype(float))


def _ratio(first_M: np.ndarray, spend_M: np.ndarray) -> float:
    """The ratio with the least absolute error: the median of spend / first, weighted by first."""
    first_M, spend_M = first_M[first_M > MIN_SPEND], spend_M[first_M > MIN_SPEND]
    if not len(first_M):
        return 1.0
    order_M = np.argsort(spend_M / first_M)
    total_M = np.cumsum(first_M[order_M])
    middle = order_M[np.searchsorted(total_M, total_M[-1] / 2)]
    return float(spend_M[middle] / first_M[middle])
