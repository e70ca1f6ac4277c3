"""Measures of a stored ranking against the set of the user's next window."""

import math

import numpy as np
import pytest

from models.profile.data.examples import PURCHASE, VIEW
from models.profile.evaluation.next_basket import (
    NO_CODE,
    RETURN,
    basket_scores,
    compare_rankings,
    next_baskets,
)
from tests.unit.models.profile.synthetic_streams import DAY_MS, START_MS, make_streams


def streams_of(*events):
    """Events as (user, day, item, type); item 0 has no name."""
    user, day, item, kind = (np.array(column) for column in zip(*events, strict=True))
    return make_streams(user, START_MS + day * DAY_MS, kind, np.ones(len(user)), item)


SHOP = streams_of(
    (0, 0, 3, PURCHASE),
    (0, 0, 4, PURCHASE),
    (0, 2, 4, PURCHASE),
    (0, 2, 4, PURCHASE),
    (0, 2, 5, VIEW),
    (0, 2, 0, VIEW),
    (0, 2, 3, RETURN),
    (0, 5, 6, PURCHASE),
    (1, 1, 6, PURCHASE),
    (1, 3, 0, PURCHASE),
)
ALL = np.arange(5)


def basket_of(baskets, row):
    return baskets.code_M[baskets.row_M == row].tolist()


def test_target_is_the_set_of_the_following_window_without_returns_and_unnamed_items():
    baskets = next_baskets(SHOP, "item", ALL)
    assert baskets.window_W.tolist() == [0, 1]
    assert baskets.user_W.tolist() == [0, 0]
    assert basket_of(baskets, 0) == [4, 5]
    assert basket_of(baskets, 1) == [6]
    assert baskets.had_before_M.tolist() == [True, False, False]


def test_categories_are_compared_by_their_own_codes():
    baskets = next_baskets(SHOP, "category", np.array([1]))
    assert basket_of(baskets, 0) == [0, 4]  # item 5 has the category 0, as the unnamed item has


def test_ndcg_recall_and_hit_of_a_known_ranking():
    baskets = next_baskets(SHOP, "item", ALL)
    scores = basket_scores(baskets, np.array([[3, 5, 1], [1, 2, 6]]))
    ideal = 1 + 1 / math.log2(3)
    np.testing.assert_allclose(scores.ndcg_at_10, [1 / math.log2(3) / ideal, 1 / math.log2(4)])
    np.testing.assert_allclose(scores.recall_at_10, [0.5, 1])
    np.testing.assert_allclose(scores.hit_rate, [1, 1])


def test_repeat_and_explore_count_only_their_members_of_the_same_ranking():
    baskets = next_baskets(SHOP, "item", ALL)
    ranking = np.array([[5, 4], [5, 4]])
    repeat, explore = (basket_scores(baskets, ranking, part) for part in ("repeat", "explore"))
    np.testing.assert_allclose(repeat.ndcg_at_10, [1 / math.log2(3), np.nan])
    np.testing.assert_allclose(explore.ndcg_at_10, [1, 0])
    np.testing.assert_allclose(repeat.recall_at_10, [1, np.nan])
    np.testing.assert_allclose(explore.hit_rate, [1, 0])


def test_best_ranking_has_the_score_1_also_for_more_than_ten_members():
    events = [(0, 0, 1, PURCHASE), *((0, 1, item, PURCHASE) for item in range(1, 15))]
    baskets = next_baskets(streams_of(*events), "item", np.array([1]))
    scores = basket_scores(baskets, np.arange(1, 11)[None])
    np.testing.assert_allclose(scores.ndcg_at_10, [1])
    np.testing.assert_allclose(scores.recall_at_10, [10 / 14])


def test_empty_places_hit_nothing_and_places_after_the_tenth_do_not_count():
    baskets = next_baskets(SHOP, "item", ALL)
    empty = np.full((2, 12), NO_CODE)
    empty[:, 10] = 6
    assert basket_scores(baskets, empty).hit_rate.tolist() == [0, 0]


def test_code_twice_in_a_ranking_is_an_error():
    baskets = next_baskets(SHOP, "item", ALL)
    with pytest.raises(ValueError, match="row 1 has a code twice"):
        basket_scores(baskets, np.array([[3, 5, 4], [5, 2, 5]]))


def random_shop(seed):
    random = np.random.default_rng(seed)
    events = 2_000
    return make_streams(
        random.integers(0, 30, events),
        START_MS + random.integers(0, 40, events) * DAY_MS,
        np.full(events, PURCHASE),
        np.ones(events),
        random.integers(1, 20, events),
    )


@pytest.mark.parametrize("kind", ["item", "category"])
def test_permuting_the_events_of_a_window_changes_no_score(kind):
    """The lines of a receipt have one time: a measure must not know their order."""
    streams = random_shop(1)
    random = np.random.default_rng(2)
    order = np.concatenate(
        [
            random.permutation(np.arange(first, last))
            for first, last in zip(streams.first_W, streams.last_W, strict=True)
        ]
    )
    shuffled = streams._replace(item_N=streams.item_N[order], category_N=streams.category_N[order])
    windows = np.arange(len(streams.user_W))
    first, second = (next_baskets(each, kind, windows) for each in (streams, shuffled))
    for actual, expected in zip(second[:5], first[:5], strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_comparison_has_scores_differences_and_intervals_by_part():
    streams = random_shop(3)
    baskets = next_baskets(streams, "item", np.arange(len(streams.user_W)))
    rows = len(baskets.window_W)
    truth = np.full((rows, 10), NO_CODE)
    place = np.arange(len(baskets.row_M)) - np.searchsorted(baskets.row_M, baskets.row_M)
    truth[baskets.row_M, place] = baskets.code_M
    report = compare_rankings(baskets, truth, {"none": np.full((rows, 10), NO_CODE)})
    everything = report["all"]
    assert everything["windows"] == rows
    assert everything["users"] == 30
    assert everything["scores"]["model"]["ndcg_at_10"] == [1, 1, 1]
    assert everything["scores"]["none"]["hit_rate"] == [0, 0, 0]
    assert everything["model_over"]["none"]["recall_at_10"] == [1, 1, 1]
    assert report["repeat"]["windows"] < rows
    value, low, high = report["repeat"]["scores"]["model"]["ndcg_at_10"]
    assert low <= value <= high < 1  # new members take places of the ranking
