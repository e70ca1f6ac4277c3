"""Fits of BG/NBD and Gamma-Gamma find the parameters that customers were drawn with."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from lab.baselines.values import purchase_models
from lab.baselines.values.purchase_models import (
    BetaGeo,
    GammaGamma,
    NotConvergedError,
)

TRUE = BetaGeo(0.8, 12.0, 0.7, 2.4)
AMOUNTS = GammaGamma(6.0, 4.0, 15.0)
USERS, AGE_DAYS = 20_000, 200.0


def histories() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Repeats, recency and age: each purchase is the last with the user's probability."""
    random = np.random.default_rng(7)
    rate_W = random.gamma(TRUE.r, 1 / TRUE.alpha, USERS)
    drop_W = random.beta(TRUE.a, TRUE.b, USERS)
    age_W = random.uniform(AGE_DAYS / 2, AGE_DAYS, USERS)
    last_W, repeats_W = np.zeros(USERS), np.zeros(USERS)
    alive_W = np.ones(USERS, bool)
    while alive_W.any():
        next_W = last_W + random.exponential(1 / rate_W)
        alive_W &= next_W <= age_W
        last_W, repeats_W = np.where(alive_W, next_W, last_W), repeats_W + alive_W
        alive_W &= random.random(USERS) >= drop_W
    return repeats_W, last_W, age_W


def amounts() -> tuple[np.ndarray, np.ndarray]:
    """Purchases of each user and their mean amount."""
    random = np.random.default_rng(8)
    purchases_W = random.integers(1, 20, USERS).astype(float)
    scale_W = random.gamma(AMOUNTS.q, 1 / AMOUNTS.v, USERS)
    return purchases_W, random.gamma(AMOUNTS.p * purchases_W) / scale_W / purchases_W


def test_bg_nbd_fit_finds_the_parameters_of_simulated_customers() -> None:
    repeats_W, recency_W, age_W = histories()
    found = BetaGeo.fit(0.0, repeats_W, recency_W, age_W)
    assert found.r == pytest.approx(TRUE.r, rel=0.1)
    assert found.alpha == pytest.approx(TRUE.alpha, rel=0.1)
    assert found.a / (found.a + found.b) == pytest.approx(TRUE.a / (TRUE.a + TRUE.b), rel=0.1)
    in_hours = BetaGeo.fit(0.0, repeats_W, recency_W * 24, age_W * 24)
    assert in_hours.alpha == pytest.approx(24 * found.alpha, rel=1e-4)
    assert BetaGeo.fit(1.0, repeats_W, recency_W, age_W).b < found.b


def test_gamma_gamma_fit_finds_the_parameters_of_simulated_amounts() -> None:
    purchases_W, mean_W = amounts()
    found = GammaGamma.fit(0.0, purchases_W, mean_W)
    assert found.p == pytest.approx(AMOUNTS.p, rel=0.15)
    expected_W = found.expected_amount(purchases_W, mean_W)
    assert np.allclose(expected_W, AMOUNTS.expected_amount(purchases_W, mean_W), rtol=0.06)
    of_all = found.v * found.p / (found.q - 1)
    assert (np.abs(expected_W - of_all) <= np.abs(mean_W - of_all) + 1e-9).all()


def test_derivatives_are_those_of_the_likelihoods() -> None:
    repeats_W, recency_W, age_W = (each[:500] for each in histories())
    purchases_W, mean_W = (each[:500] for each in amounts())
    for likelihood, values_P in (
        (
            purchase_models._beta_geo_likelihood(repeats_W, recency_W, age_W),
            [0.5, 9.0, 1.3, 2.0],
        ),
        (purchase_models._gamma_gamma_likelihood(purchases_W, mean_W), [4.0, 3.0, 20.0]),
    ):
        at_P = np.array(values_P)
        numeric_P = approx_fprime(at_P, lambda each_P, f=likelihood: f(each_P)[0], 1e-6)
        assert likelihood(at_P)[1] == pytest.approx(numeric_P, rel=1e-3, abs=1e-5)


def test_users_without_repeats_are_alive_and_expected_purchases_grow_with_time() -> None:
    history = np.array([0.0, 3.0]), np.array([0.0, 40.0]), np.array([300.0, 60.0])
    assert TRUE.probability_alive(*history)[0] == 1.0
    month_W, year_W = (TRUE.expected_purchases(days, *history) for days in (30.0, 365.0))
    assert (month_W > 0).all() and (month_W < year_W).all()


def test_likelihood_without_a_maximum_is_not_converged() -> None:
    same_W = np.full(50, 20.0)
    with pytest.raises(NotConvergedError):
        GammaGamma.fit(0.0, np.full(50, 3.0), same_W)
