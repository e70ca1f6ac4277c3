"""Data, tuning and predictions of the baseline models of churn, spend and time to purchase."""

import numpy as np
import pytest

from lab.baselines import values as baseline_models
from lab.baselines.values import boosting, linear
from lab.baselines.values.data import (
    absolute_days_error,
    absolute_error,
    choose_settings,
)
from lab.tests.value_data import baseline_data, views_and_purchases
from models.profile.data.examples import VIEW
from tests.unit.models.profile.synthetic_streams import (
    churning_customers,
    corpus_and_split,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data():
    return baseline_data()


def test_first_settings_with_the_least_validation_loss_are_chosen(data):
    def fit(settings):
        return lambda index_W: np.full(len(index_W), settings["value"])

    def loss(windows, value_W):
        assert len(value_W) == len(windows.index_W) == len(data.validation.index_W)
        return abs(value_W[0] - 3)

    progress = []
    grid = [{"value": value, "name": name} for name, value in enumerate((9, 4, 2, 7))]
    settings, predict = choose_settings(
        data, grid, fit, loss, lambda done, total: progress.append((done, total))
    )
    assert settings == {"value": 4, "name": 1} and predict(np.arange(2)).tolist() == [4, 4]
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]


def use_small_grids(monkeypatch):
    monkeypatch.setattr(linear, "SETTINGS_GRID", linear.SETTINGS_GRID[2:4])
    monkeypatch.setattr(boosting, "CHURN_GRID", boosting.CHURN_GRID[:1])
    monkeypatch.setattr(boosting, "SPEND_GRID", [boosting.SPEND_GRID[0], boosting.SPEND_GRID[-1]])


def test_every_baseline_model_predicts_its_targets(data, monkeypatch):
    use_small_grids(monkeypatch)
    progress = []
    predictions = baseline_models.fit_all(
        data, lambda stage, done, total: progress.append((stage, done, total))
    )
    targets = {
        "linear_regression": ["spend"],
        "logistic_regression": ["churn"],
        "xgboost": ["churn", "days", "spend"],
        "own_gap": ["days"],
    }
    assert progress[-1][0] == "own_gap"
    for name, predicted in targets.items():
        assert sorted(predictions[name].chosen_settings) == predicted
        assert any(stage == name and done == total for stage, done, total in progress)
        for split_name, moments in (
            ("validation", len(data.validation.index_W)),
            ("test", len(data.test_W)),
        ):
            values = getattr(predictions[name], split_name)
            for target in ("churn", "spend", "days"):
                value = getattr(values, f"{target}_W")
                assert (value is not None) == (target in predicted)
                assert value is None or (len(value) == moments and np.isfinite(value).all())
    constant = absolute_error(data.validation, np.full(len(data.validation.spend_W), 100.0))
    for name in ("linear_regression", "xgboost"):
        assert absolute_error(data.validation, predictions[name].validation.spend_W) < constant
        assert predictions[name].test.spend_W.min() >= 0
    middle = absolute_days_error(data.validation, np.full(len(data.validation.days_W), 15.0))
    for name in ("own_gap", "xgboost"):
        days_W = predictions[name].validation.days_W
        assert absolute_days_error(data.validation, days_W) < middle
        assert days_W.min() >= 0 and predictions[name].test.days_W.max() <= 31
    assert "rounds" in predictions["xgboost"].chosen_settings["spend"]


def test_events_after_validation_do_not_change_settings_or_validation_predictions(monkeypatch):
    use_small_grids(monkeypatch)
    corpus, split = corpus_and_split(churning_customers())
    predictions = baseline_models.fit_all(baseline_data(corpus.streams, split))
    late_N = corpus.streams.time_ms_N >= split.validation_until_ms
    changed = corpus.streams._replace(
        amount_N=np.where(late_N, 1e6, corpus.streams.amount_N),
        type_N=np.where(late_N, VIEW, corpus.streams.type_N),
    )
    changed_predictions = baseline_models.fit_all(baseline_data(changed, split))
    for name, expected in predictions.items():
        actual = changed_predictions[name]
        assert actual.chosen_settings == expected.chosen_settings
        for value, expected_value in zip(actual.validation, expected.validation, strict=True):
            if expected_value is not None:
                np.testing.assert_allclose(expected_value, value, rtol=1e-6, atol=1e-6)


def test_no_baseline_model_is_fitted_without_both_classes():
    streams = views_and_purchases()
    only_views = streams._replace(type_N=np.full_like(streams.type_N, VIEW))
    corpus, split = corpus_and_split(only_views)
    assert baseline_models.fit_all(baseline_data(corpus.streams, split)) == {}
