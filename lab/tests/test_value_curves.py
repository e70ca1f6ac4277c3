"""Values that are stored as curves of the time that passes after a window."""

import numpy as np
import pytest

from lab.user_model import value_curves
from lab.user_model.value_inputs import value_inputs
from liveprofile.features.baselines import T0_MS
from liveprofile.units import DAY_MS
from models.profile.data.examples import PURCHASE
from models.profile.data.moments import Moments
from models.profile.recipes import recipe
from models.profile.values import knot_weights
from tests.unit.models.profile.synthetic_streams import churning_customers, corpus_and_split

DECAY_DAYS = 30.0


def with_sums(streams):
    """The streams with the sums that the job's SQL computes."""
    bought_N = streams.type_N == PURCHASE
    purchases_W = np.add.reduceat(bought_N.astype(float), streams.first_W)
    amount_W = np.add.reduceat(np.where(bought_N, streams.amount_N, 0.0), streams.first_W)
    windows_W, events_W = np.ones(len(purchases_W)), streams.last_W - streams.first_W
    has_purchase_W = (purchases_W > 0).astype(float)
    weight_W = np.exp((streams.end_ms_W - T0_MS) / (DECAY_DAYS * DAY_MS))
    decayed = (has_purchase_W, purchases_W, purchases_W**2, amount_W, amount_W**2)
    totals = (windows_W, events_W, purchases_W, amount_W, has_purchase_W)
    added_WS = np.column_stack([*totals, *(column * weight_W for column in decayed)])
    sums_WS, last_ms_W = np.empty_like(added_WS), np.empty(len(added_WS), np.int64)
    time_ms_W = np.maximum.reduceat(np.where(bought_N, streams.time_ms_N, 0), streams.first_W)
    for user in range(streams.users):
        own = streams.user_W == user
        sums_WS[own] = added_WS[own].cumsum(0)
        last_ms_W[own] = np.maximum.accumulate(time_ms_W[own])
    return streams._replace(added_WS=added_WS, sums_WS=sums_WS, last_purchase_ms_W=last_ms_W)


@pytest.fixture(scope="module")
def streams():
    return with_sums(churning_customers())


def test_values_between_knots_are_interpolated_in_the_logarithm_of_the_days():
    knots = (0.0, 1.0, 3.0)
    days = np.array([0.0, 1.0, np.sqrt(8) - 1, 3.0, 50.0])
    weights = knot_weights(days, knots)
    np.testing.assert_allclose(
        weights, [[1, 0, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1], [0, 0, 1]], atol=1e-6
    )


def test_inputs_depend_on_no_event_after_the_window(streams):
    windows = np.flatnonzero(np.diff(streams.user_W, append=-1) == 0)[5:200:7]
    moments = Moments(windows, streams.end_ms_W[windows] + 5 * DAY_MS)
    expected = value_inputs(streams, moments, 8, DECAY_DAYS)
    for number, window in enumerate(windows):
        user = streams.user_W == streams.user_W[window]
        later_W = user & (np.arange(len(user)) > window)
        later_N = np.repeat(later_W, streams.last_W - streams.first_W)
        changed = streams._replace(
            amount_N=np.where(later_N, 1e6, streams.amount_N),
            sums_WS=np.where(later_W[:, None], 1e6, streams.sums_WS),
            end_ms_W=np.where(later_W, streams.end_ms_W + DAY_MS, streams.end_ms_W),
        )
        of_changed = value_inputs(changed, moments, 8, DECAY_DAYS)[number]
        np.testing.assert_allclose(of_changed, expected[number], rtol=1e-5, atol=1e-4)
    # An amount of the window itself is an input.
    tokens = np.isin(np.arange(len(streams.amount_N)), streams.first_W[windows])
    more = streams._replace(amount_N=np.where(tokens, 2 * streams.amount_N, streams.amount_N))
    assert (value_inputs(more, moments, 8, DECAY_DAYS) != expected).any(1).all()


def test_curve_predicts_churn_better_than_a_value_that_stays_the_same(streams):
    _, split = corpus_and_split(streams)
    report = value_curves.compare(streams, split, recipe("general"), 7, {})
    assert report["churn"]["model"]["auc"] > 0.8
    difference, low, _ = report["churn"]["constant"]["model_over"]
    assert difference >= low > 0
    for target in ("spend", "days"):
        others = {"one curve", "constant", "network at the moment", "boosted, same inputs"}
        assert set(report[target]) == others | {"mean", "model"}
