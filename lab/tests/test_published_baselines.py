"""The published baseline models of next baskets, on a shop with habits."""

import numpy as np
import pytest

from lab.baselines.next_basket import MODELS
from lab.baselines.tuning import rank_all, rank_as_of
from models.profile.evaluation.next_basket import basket_scores, next_baskets
from tests.unit.models.profile.synthetic_streams import DAY_MS, START_MS, split_at
from tests.unit.models.profile.test_evaluation import DAYS, shop

pytestmark = pytest.mark.slow

PUBLISHED = {
    name: tune for name, tune in MODELS.items() if name not in ("popularity", "own_counts", "lstm")
}


@pytest.fixture(scope="module")
def rankings():
    streams = shop()
    split = split_at(streams, 50, 65, DAYS)
    targets = next_baskets(streams, "item", split.test)
    models = {**PUBLISHED, "popularity": MODELS["popularity"]}
    return targets, rank_all(streams, "item", split, targets, True, models=models)


def test_published_models_rank_habits(rankings):
    targets, results = rankings
    for name in PUBLISHED:
        recall = basket_scores(targets, results[name].ranking_RK).recall_at_10.mean()
        assert recall > (0.3 if name == "gru4rec" else 0.9), name


def test_purchases_after_a_window_change_none_of_its_rankings(rankings):
    """`shop(until=70)` differs from the shop of the fixture from day 70 on."""
    _, results = rankings
    changed = shop(until=70)
    split = split_at(changed, 50, 65, DAYS)
    other = next_baskets(changed, "item", split.test)
    ranked = rank_all(changed, "item", split, other, True, models=PUBLISHED)
    early = changed.end_ms_W[other.window_W] <= START_MS + 70 * DAY_MS
    for name in PUBLISHED:
        expected, actual = results[name].ranking_RK, ranked[name].ranking_RK
        np.testing.assert_array_equal(actual[early], expected[early], err_msg=name)


def test_one_tuning_ranks_with_the_neighbours_of_several_times(rankings):
    targets, results = rankings
    streams = shop()
    split = split_at(streams, 50, 65, DAYS)
    times = {"train": split.train, "both": np.union1d(split.train, split.validation)}
    ranked = rank_as_of(
        streams,
        "item",
        split,
        targets,
        times,
        {name: MODELS[name] for name in ("tifu_knn", "popularity")},
    )
    assert list(ranked) == ["tifu_knn", "popularity"]
    for name, by_time in ranked.items():
        np.testing.assert_array_equal(by_time["both"].ranking_RK, results[name].ranking_RK)
        assert (by_time["train"].ranking_RK != by_time["both"].ranking_RK).any()
        assert by_time["train"].settings == by_time["both"].settings == results[name].settings
