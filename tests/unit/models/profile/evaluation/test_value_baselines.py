"""Linear baseline models of churn, spend and time to the next purchase."""

import numpy as np

from liveprofile.features.baselines import SUMS
from models.profile.data.examples import VIEW
from models.profile.data.moments import outcomes
from models.profile.evaluation.any_time import split_moments
from models.profile.evaluation.value_baselines import linear_baselines
from tests.unit.models.profile.miniature import MINIATURE
from tests.unit.models.profile.synthetic_streams import churning_customers, corpus_and_split


def with_sums(streams):
    """What the SQL adds, all 0: the memory tells enough."""
    zeros_WS = np.zeros((len(streams.user_W), len(SUMS)))
    last_ms_W = np.zeros(len(streams.user_W), np.int64)
    return streams._replace(added_WS=zeros_WS, sums_WS=zeros_WS, last_purchase_ms_W=last_ms_W)


def fitted(streams):
    corpus, split = corpus_and_split(with_sums(streams))
    moments = split_moments(corpus.streams, split, 30)
    return moments, corpus.streams, linear_baselines(corpus, MINIATURE, *moments, 30)


def test_regressions_are_better_than_the_average_on_unseen_moments():
    moments, streams, found = fitted(churning_customers())
    truth = outcomes(streams, moments[2], 30)
    churn_M = found["logistic_regression"].predictions.churn_W
    assert churn_M[truth.churned_M].mean() > churn_M[~truth.churned_M].mean() + 0.3
    linear = found["linear_regression"]
    assert linear.predictions.churn_W is None and set(linear.settings) == {"spend", "days"}
    known = outcomes(streams, moments[0], 30)
    for target in ("spend", "days"):
        predicted_M = getattr(linear.predictions, f"{target}_W")
        true_M, average = getattr(truth, f"{target}_M"), getattr(known, f"{target}_M").mean()
        assert np.abs(predicted_M - true_M).mean() < 0.8 * np.abs(average - true_M).mean()
        assert predicted_M.min() >= 0
    assert linear.predictions.days_W.max() <= 30


def test_events_after_validation_change_no_choice():
    _, _, expected = fitted(churning_customers())
    streams = churning_customers()
    split = corpus_and_split(streams)[1]
    late_N = streams.time_ms_N >= split.validation_until_ms
    _, _, found = fitted(streams._replace(amount_N=np.where(late_N, 1e6, streams.amount_N)))
    assert {name: each.settings for name, each in found.items()} == {
        name: each.settings for name, each in expected.items()
    }


def test_nothing_is_fitted_without_both_classes():
    streams = churning_customers(users=8)
    assert fitted(streams._replace(type_N=np.full_like(streams.type_N, VIEW)))[2] == {}
