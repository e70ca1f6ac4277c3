"""BG/NBD and Gamma-Gamma: how many purchase days are to come, and what one is worth.

Fader, Hardie and Lee 2005, Marketing Science 24(2), doi:10.1287/mksc.1040.0098, and Journal of
Marketing Research 42(4), doi:10.1509/jmkr.2005.42.4.415; fitted by `lifetimes` to one row a user as
of the end of training. Times are days; lifetimes scales them to the longest age itself, so another
unit would give the same fit.

Shape suffix: W windows, or users at the end of training.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from lifetimes import BetaGeoFitter, GammaGammaFitter
from scipy.special import hyp2f1

from liveprofile.units import DAY_MS
from models.profile.evaluation.baselines.data import (
    Data,
    Predict,
    Predictions,
    absolute_error,
    choose,
    ranking_loss,
)

PENALIZERS = (0.0, 1e-3, 1e-2, 0.1, 1.0)


class History(NamedTuple):
    """What the models know of a user. The first purchase day is none of the `repeats`."""

    repeats_W: np.ndarray
    recency_W: np.ndarray  # days from the first purchase day to the last
    age_W: np.ndarray  # days from the first purchase day to now
    monetary_W: np.ndarray  # spend per purchase day, the first included

    @classmethod
    def of(cls, data: Data, windows_W: np.ndarray) -> History:
        frequency_W, since_W, age_W, monetary_W = (
            data.rfm.column(name)[windows_W] for name in ("frequency", "recency", "age", "monetary")
        )
        return cls(np.maximum(frequency_W - 1, 0), age_W - since_W, age_W, monetary_W)

    @classmethod
    def at_the_end_of_training(cls, data: Data) -> History:
        """Of each user who had bought by then."""
        streams, until_ms = data.corpus.streams, data.train_until_ms
        seen = np.flatnonzero(streams.end_ms_W <= until_ms)
        last_W = seen[np.diff(streams.user_W[seen], append=-1) != 0]
        last_W = last_W[data.rfm.column("frequency")[last_W] > 0]
        now = cls.of(data, last_W)
        passed_W = (until_ms - 1) // DAY_MS - (streams.end_ms_W[last_W] - 1) // DAY_MS
        return now._replace(age_W=now.age_W + passed_W)


def no_purchase(model: BetaGeoFitter, history: History, days: float) -> np.ndarray:
    """Probability of no purchase in so many days.

    Of a user who is still alive the rate is Gamma(r + repeats, alpha + age) distributed, so it is
    1 - P(alive) + P(alive) ((alpha + age) / (alpha + age + days)) ** (r + repeats).
    """
    alive_W = alive(model, history)
    passed_W = model.params_["alpha"] + history.age_W
    shape_W = model.params_["r"] + history.repeats_W
    return 1 - alive_W + alive_W * (passed_W / (passed_W + days)) ** shape_W


def alive(model: BetaGeoFitter, history: History) -> np.ndarray:
    """Probability that there are purchases to come at all."""
    return model.conditional_probability_alive(*history[:3])


def expected_purchases(model: BetaGeoFitter, history: History, days: float) -> np.ndarray:
    """Expected purchase days in so many days."""
    with np.errstate(all="ignore"):
        expected_W = model.conditional_expected_number_of_purchases_up_to_time(days, *history[:3])
    # lifetimes takes the logarithm of a hypergeometric function that is negative for users without
    # repeats if a + b < 1. It is the same equation (10) without the logarithm.
    r, alpha, a, b = (model.params_[name] for name in ("r", "alpha", "a", "b"))
    passed_W = alpha + history.age_W
    hyper_W = hyp2f1(r, b, a + b - 1, days / (passed_W + days))
    first_W = (a + b - 1) / (a - 1) * (1 - hyper_W * (passed_W / (passed_W + days)) ** r)
    return np.where(history.repeats_W == 0, first_W, expected_W)


CHURN_SCORES: dict[str, Callable[[BetaGeoFitter, History, float], np.ndarray]] = {
    "probability of no purchase": no_purchase,
    "probability of being gone": lambda model, history, _: 1 - alive(model, history),
    "expected purchases": lambda *known: -expected_purchases(*known),
}


def predictions(data: Data, on_fit: Callable[[int, int], None]) -> Predictions | None:
    """Churn as what scores best, and spend, not below 0. None if no fit converges."""
    users = History.at_the_end_of_training(data)
    days = data.corpus.horizon_ms / DAY_MS
    purchases = _converged(BetaGeoFitter, *users[:3])
    paid_W = users.monetary_W > 0
    amounts = _converged(GammaGammaFitter, 1 + users.repeats_W[paid_W], users.monetary_W[paid_W])
    if not purchases or not amounts:
        return None
    churn_settings = [
        {"penalizer": penalizer, "score": score}
        for penalizer, score in product(purchases, CHURN_SCORES)
    ]
    spend_settings = [
        {"penalizer": penalizer, "amount_penalizer": amount_penalizer}
        for penalizer, amount_penalizer in product(purchases, amounts)
    ]
    fits = len(churn_settings) + len(spend_settings)

    def churn(settings: dict[str, Any]) -> Predict:
        model, score = purchases[settings["penalizer"]], CHURN_SCORES[settings["score"]]
        return lambda windows_W: score(model, History.of(data, windows_W), days)

    def spend(settings: dict[str, Any]) -> Predict:
        model, worth = purchases[settings["penalizer"]], amounts[settings["amount_penalizer"]]

        def predict(windows_W: np.ndarray) -> np.ndarray:
            known = History.of(data, windows_W)
            amount_W = worth.conditional_expected_average_profit(
                1 + known.repeats_W, known.monetary_W
            )
            return np.maximum(expected_purchases(model, known, days) * amount_W, 0.0)

        return predict

    chosen_churn, left = choose(
        data, churn_settings, churn, ranking_loss, lambda done, _: on_fit(done, fits)
    )
    chosen_spend, spent = choose(
        data,
        spend_settings,
        spend,
        absolute_error,
        lambda done, _: on_fit(len(churn_settings) + done, fits),
    )
    return Predictions.of(data, {"churn": chosen_churn, "spend": chosen_spend}, left, spent)


def _converged(fitter: type, *known: np.ndarray) -> dict[float, Any]:
    """Fits by their penalizer; those that don't converge are left out."""
    found = {}
    for penalizer in PENALIZERS:
        # lifetimes prints what did not converge.
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.suppress(ValueError),
            np.errstate(all="ignore"),
        ):
            found[penalizer] = fitter(penalizer).fit(*known)
    return found
