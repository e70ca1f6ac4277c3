"""BG/NBD and Gamma-Gamma against simulation and on synthetic customers."""

import numpy as np
import pytest

from lab.baselines.values import bgnbd
from lab.baselines.values.data import (
    absolute_days_error,
    absolute_error,
    ranking_loss,
)
from lab.baselines.values.purchase_models import BetaGeo, NotConvergedError
from lab.tests.value_data import baseline_data, ignore_progress
from liveprofile.units import DAY_MS


@pytest.fixture(scope="module")
def data():
    return baseline_data()


@pytest.mark.parametrize(("a", "b"), [(0.8, 2.5), (0.2, 0.5)])
def test_bg_nbd_equals_the_posterior_mean_over_draws_from_the_prior(a, b):
    """The draws are weighted by the likelihood of the history (equation 3 of the paper)."""
    model = BetaGeo(1.2, 10.0, a, b)
    random = np.random.default_rng(4)
    rate, p = random.gamma(1.2, 1 / 10.0, 2_000_000), random.beta(a, b, 2_000_000)
    history = bgnbd.PurchaseHistory(
        *np.array([[0, 2, 2, 4], [0, 15, 40, 50], [50, 60, 40, 60], [1] * 4])
    )
    for user, (x, recency, age, _) in enumerate(zip(*history, strict=True)):
        alive = (1 - p) ** x * rate**x * np.exp(-rate * age)
        gone = p * (1 - p) ** (x - 1) * rate**x * np.exp(-rate * recency) if x else 0 * p
        total = (alive + gone).sum()
        expected = {
            bgnbd.probability_alive: alive.sum() / total,
            bgnbd.probability_no_purchase: (gone + alive * np.exp(-rate * 30)).sum() / total,
            bgnbd.expected_purchases: (alive * -np.expm1(-rate * p * 30) / p)[p > 0].sum() / total,
        }
        for function, value in expected.items():
            days = () if function is bgnbd.probability_alive else (30.0,)
            assert function(model, history, *days)[user] == pytest.approx(value, rel=0.02)


def test_bg_nbd_is_fitted_to_each_user_once_as_of_training_end(data):
    users, streams = bgnbd.PurchaseHistory.at_training_end(data), data.streams
    assert len(users.repeats_W) == streams.users
    user_N = np.repeat(streams.user_W, streams.last_W - streams.first_W)
    for user in range(streams.users):
        before = (user_N == user) & (streams.time_ms_N < data.train_until_ms)
        days = np.unique(streams.time_ms_N[before] // DAY_MS)
        history = [column[user] for column in users[:3]]
        last_day = data.train_until_ms // DAY_MS - 1
        assert history == [len(days) - 1, days[-1] - days[0], last_day - days[0]]


def test_bg_nbd_predicts_churn_and_spend_of_synthetic_customers(data):
    predictions = bgnbd.predictions(data, ignore_progress)
    assert predictions.chosen_settings["churn"]["score"] in bgnbd.CHURN_SCORES
    assert ranking_loss(data.validation, predictions.validation.churn_W) < 0.4
    average = np.full(len(data.validation.spend_W), data.train.spend_W.mean())
    error = absolute_error(data.validation, predictions.validation.spend_W)
    assert error < 0.8 * absolute_error(data.validation, average)
    usual = np.full(len(data.validation.days_W), np.median(data.train.days_W))
    error = absolute_days_error(data.validation, predictions.validation.days_W)
    assert error < absolute_days_error(data.validation, usual)


def test_median_days_is_where_the_probability_of_no_purchase_is_one_half():
    model = BetaGeo(1.2, 10.0, 0.2, 2.5)
    history = bgnbd.PurchaseHistory(*np.array([[5, 9, 3], [50, 59, 5], [50, 60, 300], [1] * 3]))
    days = bgnbd.median_days(model, history, 90.0)
    assert days[2] == 90  # gone, more likely than not
    for user in range(2):
        share = bgnbd.probability_no_purchase(model, history, days[user])[user]
        assert share == pytest.approx(0.5, abs=1e-6)


def test_bg_nbd_returns_none_if_no_fit_converges(data):
    def never(penalizer, *inputs):
        raise NotConvergedError("no maximum")

    assert bgnbd.predictions(data, ignore_progress, never) is None
