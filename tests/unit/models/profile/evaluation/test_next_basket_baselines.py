"""The baseline models of next baskets on a shop with habits, and the user's own counts."""

import numpy as np
import pytest

from models.profile.data.examples import PURCHASE
from models.profile.data.prepared import Split
from models.profile.evaluation.next_basket import (
    NO_CODE,
    RETURN,
    Baskets,
    basket_scores,
    next_baskets,
    subset,
)
from models.profile.evaluation.next_basket_baselines import OwnCounts, rank_baselines
from tests.unit.models.profile.synthetic_streams import DAY_MS, START_MS, make_streams

pytestmark = pytest.mark.slow

DAYS, USERS = 80, 24


def shop(until=DAYS, seed=1):
    """Each user buys three of the user's own six items every second day, after `until` any."""
    rows = []
    for user in range(USERS):
        own = np.random.default_rng(user).choice(np.arange(1, 60), 6, replace=False)
        for day in range(user % 2, DAYS, 2):
            random = np.random.default_rng((seed, user, day))
            items = own if day < until else np.arange(1, 60)
            rows += [(user, day, item) for item in random.choice(items, 3, replace=False)]
    user, day, item = np.array(rows).T
    time_ms = START_MS + day * DAY_MS
    return make_streams(user, time_ms, np.full(len(user), PURCHASE), np.ones(len(user)), item)


def split_of(streams, train_days=50, validation_days=65):
    day = (streams.end_ms_W - START_MS) // DAY_MS
    parts = (
        day <= train_days,
        (day > train_days) & (day <= validation_days),
        day > validation_days,
    )
    return Split(*(np.flatnonzero(part) for part in parts), 0, 0, 0)


@pytest.fixture(scope="module")
def rankings():
    streams = shop()
    split = split_of(streams)
    targets = next_baskets(streams, "item", split.test)
    return targets, rank_baselines(streams, "item", split, targets, True)


def test_baselines_rank_habits_above_popularity(rankings):
    targets, results = rankings
    recall = {
        name: basket_scores(targets, each.ranking_RK).recall_at_10.mean()
        for name, each in results.items()
    }
    assert recall["popularity"] < 0.3 < recall["lstm"] and recall["own_counts"] > 0.9


def test_purchases_after_a_window_change_none_of_its_rankings(rankings):
    """`shop(until=70)` differs from the shop of the fixture from day 70 on."""
    _, results = rankings
    changed = shop(until=70)
    split = split_of(changed)
    other = next_baskets(changed, "item", split.test)
    rankings = rank_baselines(changed, "item", split, other, True)
    early = changed.end_ms_W[other.window_W] <= START_MS + 70 * DAY_MS
    assert early.any() and not early.all()
    for name in results:
        expected, actual = results[name].ranking_RK, rankings[name].ranking_RK
        np.testing.assert_array_equal(actual[early], expected[early], err_msg=name)
    assert (rankings["own_counts"].ranking_RK != results["own_counts"].ranking_RK).any()


def test_subset_keeps_whole_baskets(rankings):
    targets, _ = rankings
    part = subset(targets, 20)
    assert len(part.window_W) == 20
    for row, window in enumerate(part.window_W):
        whole = targets.code_M[targets.row_M == np.searchsorted(targets.window_W, window)]
        np.testing.assert_array_equal(part.code_M[part.row_M == row], whole)


def test_own_counts_decay_and_are_completed_by_popular_codes():
    # User 0: item 1 three times, item 2 later in two windows. User 1: item 3 in three windows.
    events = [(0, 0, 1)] * 3 + [(0, 30, 2), (0, 60, 2), (0, 60, 0), (0, 61, 5)]
    events += [(1, 0, 3), (1, 1, 3), (1, 2, 3), (0, 60, 4)]
    user, day, item = np.array(events).T
    kind = np.where(item == 4, RETURN, PURCHASE)
    streams = make_streams(user, START_MS + day * DAY_MS, kind, np.ones(len(user)), item)
    baskets = Baskets.from_streams(streams, "item")
    popularity_C = baskets.popularity(np.arange(len(baskets.user_W)))

    def rank(window, *settings):
        return OwnCounts(*settings).rank(baskets, np.array([window]), popularity_C)[0].tolist()

    assert rank(2, np.inf, 0, True)[:2] == [1, 2]
    assert rank(2, np.inf, 0, False)[:2] == [2, 1]
    assert rank(1, np.inf, 0, False)[:2] == [2, 1]  # equal counts: the more popular first
    assert rank(1, np.inf, 100.0, False)[0] == 3
    ranking = rank(2, np.inf, 0, False)
    assert ranking[:3] == [2, 1, 3] and ranking[3] == 5 and set(ranking[4:]) <= {NO_CODE}
