"""BG/NBD and Gamma-Gamma: the number of purchase days to come, and the spend on each.

Fader, Hardie and Lee 2005, Marketing Science 24(2), doi:10.1287/mksc.1040.0098, and Journal of
Marketing Research 42(4), doi:10.1509/jmkr.2005.42.4.415. Both are fitted to one row per user as of
the end of training. Times are in days; the fit does not depend on the unit.

Shape suffix: W moments, or users at the end of training.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from lab.baselines.values.data import (
    BaselineData,
    BaselinePredictions,
    Predict,
    choose_for_each,
)
from lab.baselines.values.purchase_models import (
    BetaGeo,
    GammaGamma,
    NotConvergedError,
)
from lab.baselines.values.rfm import RfmFeatures, rfm_features
from models.profile.data.moments import Moments

PENALIZERS = (0.0, 1e-3, 1e-2, 0.1, 1.0)


class PurchaseHistory(NamedTuple):
    """The models' input for each user."""

    repeats_W: np.ndarray  # purchase days after the first
    recency_W: np.ndarray  # days from the first purchase day to the last
    age_W: np.ndarray  # days from the first purchase day to the observation
    monetary_W: np.ndarray  # spend per purchase day, including the first

    @classmethod
    def from_features(cls, rfm: RfmFeatures, index_W: np.ndarray) -> PurchaseHistory:
        """Users at the moments of these rows."""
        frequency_W, since_W, age_W, monetary_W = (
            rfm.column(name)[index_W] for name in ("frequency", "recency", "age", "monetary")
        )
        return cls(np.maximum(frequency_W - 1, 0), age_W - since_W, age_W, monetary_W)

    @classmethod
    def at_training_end(cls, data: BaselineData) -> PurchaseHistory:
        """Users with a purchase by the end of training, one row each."""
        rfm = rfm_features(data.streams, Moments.at(data.streams, data.train_until_ms))
        return cls.from_features(rfm, np.flatnonzero(rfm.column("frequency") > 0))


def probability_no_purchase(model: BetaGeo, history: PurchaseHistory, days: float) -> np.ndarray:
    """(W,) probability of no purchase within `days`.

    The purchase rate of a user who is still alive is distributed as
    Gamma(r + repeats, alpha + age), so the probability is
    1 - P(alive) + P(alive) ((alpha + age) / (alpha + age + days)) ** (r + repeats).
    """
    alive_W = probability_alive(model, history)
    rate_W, shape_W = model.alpha + history.age_W, model.r + history.repeats_W
    return 1 - alive_W + alive_W * (rate_W / (rate_W + days)) ** shape_W


def probability_alive(model: BetaGeo, history: PurchaseHistory) -> np.ndarray:
    """(W,) probability that the user will purchase again at any time."""
    return model.probability_alive(*history[:3])


def expected_purchases(model: BetaGeo, history: PurchaseHistory, days: float) -> np.ndarray:
    """(W,) expected purchase days within `days`."""
    return model.expected_purchases(days, *history[:3])


def median_days(model: BetaGeo, history: PurchaseHistory, most: float) -> np.ndarray:
    """(W,) days within which the next purchase is as likely as not, at most `most`."""
    alive_W = probability_alive(model, history)
    rate_W, shape_W = model.alpha + history.age_W, model.r + history.repeats_W
    with np.errstate(all="ignore"):
        days_W = rate_W * ((alive_W / (alive_W - 0.5)) ** (1 / shape_W) - 1)
    return np.where((alive_W > 0.5) & (days_W < most), days_W, float(most))


CHURN_SCORES: dict[str, Callable[[BetaGeo, PurchaseHistory, float], np.ndarray]] = {
    "probability of no purchase": probability_no_purchase,
    "probability of being gone": lambda model, history, _: 1 - probability_alive(model, history),
    "expected purchases": lambda *inputs: -expected_purchases(*inputs),
}


def predictions(
    data: BaselineData,
    on_fit: Callable[[int, int], None],
    fit_purchases: Callable[..., BetaGeo] = BetaGeo.fit,
) -> BaselinePredictions | None:
    """Churn by the best of CHURN_SCORES, spend of at least 0, and the median time to the next
    purchase. None if no fit converges.

    fit_purchases: as BetaGeo.fit.
    """
    users = PurchaseHistory.at_training_end(data)
    days = data.horizon_days
    purchase_models = _fit_each_penalizer(fit_purchases, *users[:3])
    paid_W = users.monetary_W > 0
    amount_models = _fit_each_penalizer(
        GammaGamma.fit, 1 + users.repeats_W[paid_W], users.monetary_W[paid_W]
    )
    if not purchase_models or not amount_models:
        return None
    churn_grid = [
        {"penalizer": penalizer, "score": score}
        for penalizer, score in product(purchase_models, CHURN_SCORES)
    ]
    spend_grid = [
        {"penalizer": penalizer, "amount_penalizer": amount_penalizer}
        for penalizer, amount_penalizer in product(purchase_models, amount_models)
    ]
    days_grid = [{"penalizer": penalizer} for penalizer in purchase_models]

    def fit_churn(settings: dict[str, Any]) -> Predict:
        model, score = purchase_models[settings["penalizer"]], CHURN_SCORES[settings["score"]]
        return lambda index_W: score(model, PurchaseHistory.from_features(data.rfm, index_W), days)

    def fit_spend(settings: dict[str, Any]) -> Predict:
        purchase_model = purchase_models[settings["penalizer"]]
        amount_model = amount_models[settings["amount_penalizer"]]

        def predict(index_W: np.ndarray) -> np.ndarray:
            history = PurchaseHistory.from_features(data.rfm, index_W)
            amount_W = amount_model.expected_amount(1 + history.repeats_W, history.monetary_W)
            return np.maximum(expected_purchases(purchase_model, history, days) * amount_W, 0.0)

        return predict

    def fit_days(settings: dict[str, Any]) -> Predict:
        model = purchase_models[settings["penalizer"]]
        return lambda index_W: median_days(
            model, PurchaseHistory.from_features(data.rfm, index_W), days
        )

    settings, models = choose_for_each(
        data,
        on_fit,
        churn=(churn_grid, fit_churn),
        spend=(spend_grid, fit_spend),
        days=(days_grid, fit_days),
    )
    return BaselinePredictions.from_models(data, settings, **models)


def _fit_each_penalizer(fit: Callable[..., Any], *inputs: np.ndarray) -> dict[float, Any]:
    """The fitted model of each of PENALIZERS; fits that do not converge are left out."""
    models = {}
    for penalizer in PENALIZERS:
        with contextlib.suppress(NotConvergedError):
            models[penalizer] = fit(penalizer, *inputs)
    return models
