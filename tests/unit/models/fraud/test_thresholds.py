"""Alert thresholds by cost and by budget against an exhaustive search."""

import numpy as np
import pytest

from liveprofile.errors import InputError
from models.fraud.training.alert_metrics import (
    NO_ALERT_SCORE,
    threshold_by_budget,
    threshold_by_cost,
)


def test_threshold_by_cost_has_the_minimum_cost_of_all_thresholds() -> None:
    random = np.random.default_rng(5)
    for _ in range(20):
        score = np.floor(random.random(60) * 10) / 10  # with ties
        fraud, amount = random.random(60) < score / 2, random.lognormal(3, 1, 60)
        false_alarm, share = float(random.choice([0, 5, 40])), float(random.choice([0.2, 1]))

        def cost(threshold: float, score=score, fraud=fraud, amount=amount) -> float:
            alert = score >= threshold
            missed = amount[fraud & ~alert].sum() * share  # noqa: B023
            return (alert & ~fraud).sum() * false_alarm + missed  # noqa: B023

        threshold = threshold_by_cost(score, fraud, amount, false_alarm, share)
        assert threshold.cost == pytest.approx(cost(threshold.score))
        assert threshold.cost == pytest.approx(min(map(cost, [*score, NO_ALERT_SCORE + 1])))
        assert threshold.alerts == (score >= threshold.score).sum()
        assert threshold.frauds_found == (fraud & (score >= threshold.score)).sum()


def test_no_alerts_if_each_costs_more_than_it_saves() -> None:
    score, fraud = np.array([0.9, 0.2]), np.array([True, False])
    assert threshold_by_cost(score, fraud, np.array([1.0, 1.0]), 0.5).score == 0.9
    assert threshold_by_cost(score, ~fraud, np.array([1.0, 1.0]), 5.0).score == NO_ALERT_SCORE


def test_threshold_by_budget_is_the_lowest_that_keeps_the_budget() -> None:
    random = np.random.default_rng(6)
    score = np.floor(random.random(500) * 100) / 100
    day, user = random.integers(0, 10, 500), random.integers(0, 40, 500)

    def flagged(threshold: float) -> int:
        alert = score >= threshold
        return len({(d, u) for d, u in zip(day[alert], user[alert], strict=True)})

    for budget in (0.1, 1, 4, 1_000):
        threshold = threshold_by_budget(score, day, user, 10, budget)
        assert flagged(threshold) <= 10 * budget
        lower = score[score < threshold]
        assert not len(lower) or flagged(lower.max()) > 10 * budget


def test_no_scores_no_budget_or_negative_cost_is_rejected() -> None:
    none = np.empty(0)
    with pytest.raises(InputError, match="no scores"):
        threshold_by_cost(none, none.astype(bool), none, 1)
    with pytest.raises(InputError, match="must be above 0"):
        threshold_by_budget(np.ones(1), np.ones(1), np.ones(1), 1, 0)
    with pytest.raises(InputError, match="must not be negative"):
        threshold_by_cost(np.ones(1), np.ones(1, bool), np.ones(1), -1)
