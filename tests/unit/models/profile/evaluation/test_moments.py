"""Moments between windows, and what users do after them."""

import numpy as np

from liveprofile.units import DAY_MS
from models.profile.data.examples import PURCHASE, VIEW
from models.profile.data.moments import Moments, month_ends, outcomes
from models.profile.evaluation.any_time import HORIZONS_DAYS, split_moments
from tests.unit.models.profile.synthetic_streams import (
    START_MS,
    churning_customers,
    corpus_and_split,
    make_streams,
)


def day(number):
    return START_MS + round(number * DAY_MS)


# User 0 buys on days 0 and 10, views on day 12. User 1 buys on day 20.
STREAMS = make_streams(
    np.array([0, 0, 0, 1]),
    np.array([day(0), day(10.5), day(12), day(20)]),
    np.array([PURCHASE, PURCHASE, VIEW, PURCHASE]),
    np.array([3.0, 4.0, 0.0, 5.0]),
    np.ones(4, int),
)


def test_moment_has_the_last_window_that_has_ended():
    moments = Moments.at(STREAMS, day(12.5))
    assert moments.window_M.tolist() == [1]  # the window of day 12 is open, user 1 not yet seen
    assert Moments.at(STREAMS, day(21)).window_M.tolist() == [2, 3]


def test_outcomes_are_purchases_in_the_horizon_after_the_moment():
    moments = Moments(np.array([0, 0, 2]), np.array([day(1), day(5), day(15)]))
    truth = outcomes(STREAMS, moments, 7)
    assert truth.churned_M.tolist() == [True, False, True]
    assert truth.spend_M.tolist() == [0, 4, 0]
    assert truth.days_M.tolist() == [7, 5.5, 7]  # at most the horizon, and of the same user


def test_month_ends_are_first_milliseconds_of_months():
    ends = month_ends(day(0), day(59))
    assert ends == [day(31), day(59)]
    assert month_ends(day(31), day(58)) == []


def test_moments_are_drawn_for_every_user_seen_also_long_after_the_last_window():
    streams = churning_customers()
    moments = Moments.draw(streams, day(100), day(130), 2, seed=1)
    user = streams.user_W[moments.window_M]
    seen = np.unique(streams.user_W[streams.end_ms_W <= day(130)])
    assert (np.bincount(user)[seen] >= 2).all()
    assert (moments.at_ms_M > day(100)).all() and (moments.at_ms_M <= day(130)).all()
    assert (np.diff(moments.window_M) >= 0).all()
    end_ms = streams.end_ms_W[moments.window_M]
    assert (end_ms <= moments.at_ms_M).all()
    assert (moments.at_ms_M - end_ms).max() > 60 * DAY_MS
    following = np.minimum(moments.window_M + 1, len(streams.user_W) - 1)
    same_user = streams.user_W[following] == user
    later = streams.end_ms_W[following] > moments.at_ms_M
    assert (later | ~same_user | (following == moments.window_M)).all()


def test_horizons_end_in_the_split_of_their_moment():
    corpus, split = corpus_and_split(churning_customers())
    for days in HORIZONS_DAYS:
        _, validation, test = split_moments(corpus.streams, split, days)
        for moments, after_ms, until_ms in (
            (validation, split.train_until_ms, split.validation_until_ms),
            (test, split.validation_until_ms, split.test_until_ms),
        ):
            horizon_end = moments.at_ms_M + days * DAY_MS
            assert (horizon_end > after_ms).all() and (horizon_end <= until_ms).all()


def test_no_horizon_of_training_overlaps_one_of_validation_or_test():
    corpus, split = corpus_and_split(churning_customers())
    for days in (7, 30):
        train, *later = split_moments(corpus.streams, split, days)
        last_label_ms = train.at_ms_M.max() + days * DAY_MS
        assert last_label_ms > split.train_until_ms - (days + 5) * DAY_MS
        assert all(last_label_ms <= moments.at_ms_M.min() for moments in later)
