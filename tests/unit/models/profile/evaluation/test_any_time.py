"""The comparison of churn, spend and time to the next purchase."""

import numpy as np
import pytest

from lab.baselines.values.data import Predictions
from models.profile.data.moments import Outcomes
from models.profile.evaluation.any_time import compare_values


@pytest.fixture(scope="module")
def truth():
    random = np.random.default_rng(1)
    churned = random.random(600) < 0.4
    spend = np.where(churned, 0, random.lognormal(3, 1, 600))
    return Outcomes(churned, spend, np.where(churned, 30, random.uniform(0, 30, 600)))


USERS = np.repeat(np.arange(100), 6)


def test_perfect_model_beats_a_constant_with_the_interval_beyond_0(truth):
    perfect = Predictions(truth.churned_M.astype(float), truth.spend_M, truth.days_M)
    noise = np.random.default_rng(2).random(600)
    report = compare_values(USERS, truth, perfect, {"noise": Predictions(noise, noise, noise)})
    assert (report["moments"], report["users"]) == (600, 100)
    assert report["churn"]["model"] == {"auc": 1}
    difference, low, high = report["churn"]["noise"]["model_over"]
    assert 0 < low < difference < high
    for target in ("spend", "days"):
        assert report[target]["model"]["mae"] == 0
        assert report[target]["noise"]["model_over"]["mae"][2] < 0


def test_targets_that_a_model_lacks_are_left_out(truth):
    days = Predictions(days_W=truth.days_M)
    report = compare_values(USERS, truth, Predictions(), {"own_gap": days})
    assert list(report["churn"]) == ["share"]
    assert report["days"]["own_gap"]["mae"] == 0
    assert "model_over" not in report["days"]["own_gap"]
    assert "own_gap" not in report["spend"]
