"""All baseline models of next baskets on a shop with habits."""

import numpy as np
import pytest

from models.profile.data.examples import PURCHASE
from models.profile.data.prepared import Split
from models.profile.evaluation.next_basket import basket_scores, next_baskets
from models.profile.evaluation.next_basket_baselines import MODELS, rank_all, subset
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
    return targets, rank_all(streams, "item", split, targets, True, MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_baseline_ranks_habits_above_popularity(rankings, name):
    targets, results = rankings
    assert list(results) == list(MODELS)
    scores = basket_scores(targets, results[name].ranking_RK)
    if name == "popularity":
        assert scores.recall_at_10.mean() < 0.3
    else:
        assert scores.recall_at_10.mean() > (0.3 if name == "lstm" else 0.9)


def test_purchases_after_a_window_change_none_of_its_rankings(rankings):
    """`shop(until=70)` differs from the shop of the fixture from day 70 on."""
    _, results = rankings
    changed = shop(until=70)
    split = split_of(changed)
    other = next_baskets(changed, "item", split.test)
    rankings = rank_all(changed, "item", split, other, True, MODELS)
    early = changed.end_ms_W[other.window_W] <= START_MS + 70 * DAY_MS
    assert early.any() and not early.all()
    for name in MODELS:
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
