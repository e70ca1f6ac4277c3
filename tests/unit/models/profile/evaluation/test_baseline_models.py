"""Data, tuning and predictions of all baseline models of churn and spend."""

from functools import partial

import numpy as np
import pytest

from liveprofile.units import DAY_MS
from models.profile.data.examples import VIEW, build_corpus
from models.profile.encoding import Vocabulary
from models.profile.evaluation import baseline_models
from models.profile.evaluation.baseline_models import boosting, linear, lstm
from models.profile.evaluation.baseline_models.data import (
    BaselineData,
    absolute_error,
    choose_settings,
)
from tests.unit.models.profile.synthetic_streams import (
    START_MS,
    churning_customers,
    corpus_and_split,
    views_and_purchases,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data():
    return BaselineData.from_corpus(*corpus_and_split(churning_customers()))


def test_each_split_has_only_labels_known_by_its_end(data):
    end_ms_W, horizon_ms = data.corpus.streams.end_ms_W, 30 * DAY_MS
    assert end_ms_W[data.train.windows_W].max() + horizon_ms <= data.train_until_ms
    validation_ms = end_ms_W[data.validation.windows_W]
    assert validation_ms.min() + horizon_ms > data.train_until_ms
    assert validation_ms.max() + horizon_ms <= START_MS + 150 * DAY_MS
    test_ms = end_ms_W[data.test_W]
    assert test_ms.min() > START_MS + 150 * DAY_MS
    assert test_ms.max() + horizon_ms <= START_MS + 200 * DAY_MS
    np.testing.assert_array_equal(
        data.train.churned_W, data.corpus.purchases_W[data.train.windows_W] == 0
    )


def test_first_settings_with_the_least_validation_loss_are_chosen(data):
    def fit(settings):
        return lambda windows_W: np.full(len(windows_W), settings["value"])

    def loss(windows, value_W):
        assert len(value_W) == len(windows.windows_W) == len(data.validation.windows_W)
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
    monkeypatch.setattr(lstm, "predictions", partial(lstm.predictions, epochs=1))


def test_every_baseline_model_predicts_its_targets(monkeypatch):
    use_small_grids(monkeypatch)
    corpus, split = corpus_and_split(churning_customers())
    progress = []
    predictions = baseline_models.fit_all(
        corpus, split, lambda stage, done, total: progress.append((stage, done, total))
    )
    targets = {
        "linear_regression": ["spend"],
        "logistic_regression": ["churn"],
        "xgboost": ["churn", "spend"],
        "bg_nbd": ["churn", "spend"],
        "lstm": ["churn"],
    }
    data = BaselineData.from_corpus(corpus, split)
    constant = absolute_error(data.validation, np.full(len(data.validation.spend_W), 100.0))
    assert progress[-1][0] == "lstm"
    for name, predicted in targets.items():
        assert sorted(predictions[name].chosen_settings) == predicted
        assert any(stage == name and done == total for stage, done, total in progress)
        for split_name, windows in (
            ("validation", data.validation.windows_W),
            ("test", data.test_W),
        ):
            values = getattr(predictions[name], split_name)
            np.testing.assert_array_equal(values.windows_W, windows)
            for target in ("churn", "spend"):
                value = getattr(values, f"{target}_W")
                assert (value is not None) == (target in predicted)
                assert value is None or (len(value) == len(windows) and np.isfinite(value).all())
    for name in ("linear_regression", "xgboost", "bg_nbd"):
        assert absolute_error(data.validation, predictions[name].validation.spend_W) < constant
        assert predictions[name].test.spend_W.min() >= 0
    assert "rounds" in predictions["xgboost"].chosen_settings["spend"]


def test_events_after_validation_do_not_change_settings_or_validation_predictions(monkeypatch):
    use_small_grids(monkeypatch)
    corpus, split = corpus_and_split(churning_customers())
    predictions = baseline_models.fit_all(corpus, split)
    random = np.random.default_rng(7)
    late_N = corpus.streams.time_ms_N >= split.validation_until_ms
    changed = corpus.streams._replace(
        item_N=np.where(late_N, random.permutation(corpus.streams.item_N), corpus.streams.item_N),
        amount_N=np.where(late_N, 1e6, corpus.streams.amount_N),
    )
    changed_corpus = build_corpus(changed, Vocabulary([], 1), Vocabulary([], 1), 30)
    changed_predictions = baseline_models.fit_all(changed_corpus, split)
    for name, expected in predictions.items():
        actual = changed_predictions[name]
        assert actual.chosen_settings == expected.chosen_settings
        for value, expected_value in zip(actual.validation, expected.validation, strict=True):
            if expected_value is not None:
                np.testing.assert_allclose(expected_value, value, rtol=1e-6, atol=1e-6)


def test_no_baseline_model_is_fitted_without_both_classes_or_test_labels():
    corpus, split = corpus_and_split(churning_customers())
    never_churned = corpus._replace(purchases_W=np.maximum(corpus.purchases_W, 1))
    assert baseline_models.fit_all(never_churned, split) == {}
    no_test_labels = split._replace(test_until_ms=split.validation_until_ms)
    assert baseline_models.fit_all(corpus, no_test_labels) == {}
    streams = views_and_purchases()
    only_views = streams._replace(type_N=np.full_like(streams.type_N, VIEW))
    assert baseline_models.fit_all(*corpus_and_split(only_views)) == {}
