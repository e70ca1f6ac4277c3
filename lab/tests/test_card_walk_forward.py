"""The weekly walk-forward over card transactions."""

from __future__ import annotations

import pytest

from lab.card_transactions.baselines import BASELINES
from lab.card_transactions.data import Transactions
from lab.card_transactions.walk_forward import MODEL, walk_forward
from lab.card_transactions.walk_forward import test_periods as periods_of
from lab.tests import card_transactions
from lab.tests.card_transactions import START_DAY

pytestmark = pytest.mark.slow


def make_transactions(count: int, days: int) -> Transactions:
    return Transactions(*card_transactions.make_transactions(count, days))


def test_weeks_end_with_the_file_and_leave_a_history_before_the_first_validation() -> None:
    periods = periods_of(make_transactions(2_000, days=80))
    assert [period.test_end - START_DAY for period in periods] == [65, 72, 79]
    for period in periods:
        assert period.test_end - period.test_start == period.train_end - period.train_start == 6
        assert period.test_start - period.train_end == period.delay_days + 1
    assert periods[0].validation_period().train_start - START_DAY >= 30


def test_report_has_each_week_and_the_difference_to_each_baseline() -> None:
    data = make_transactions(6_000, days=66)
    periods = periods_of(data)
    report = walk_forward(data, periods)
    names = {f"{name}, {of} features" for name in BASELINES for of in ("Handbook", "job")}
    assert set(report["models"]) == names | {MODEL}
    assert len(report["weeks"]) == len(periods) == 1
    [week] = report["weeks"]
    for name in names:
        summary = report["models"][name]
        difference, low, high = summary["model_minus_this"]
        assert low <= difference <= high
        assert summary["average_precision"] == pytest.approx(week[name]["average_precision"], 1e-3)
        assert difference == pytest.approx(
            week[MODEL]["average_precision"] - week[name]["average_precision"], abs=0.02
        )
