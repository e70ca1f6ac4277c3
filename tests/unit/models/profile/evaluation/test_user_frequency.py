"""Ranks by the user's own frequencies and by popularity, against a dense ranking."""

import numpy as np
import pytest

from liveprofile.units import DAY_MS
from models.profile.evaluation.baseline_models import user_frequency
from tests.unit.models.profile.synthetic_streams import START_MS, views_and_purchases


@pytest.mark.parametrize("half_life", [20.0, np.inf])
@pytest.mark.parametrize("smoothing", [0.0, 1.0, 40.0])
def test_target_ranks_equal_a_dense_ranking(half_life, smoothing, monkeypatch):
    monkeypatch.setattr(user_frequency, "MAX_TARGETS_PER_CHUNK", 7)
    streams, classes = views_and_purchases(), 45  # 15 of the classes have no event
    train = np.flatnonzero(streams.end_ms_W < START_MS + 50 * DAY_MS)
    count_C = user_frequency.popularity(streams, streams.item_N, classes, train)
    random = np.random.default_rng(5)
    targets = random.choice(len(streams.item_N), 300, replace=False)
    settings = user_frequency.UserFrequencySettings(half_life, smoothing)
    ranks = user_frequency.target_ranks(streams, streams.item_N, count_C, targets, settings)
    user_N = np.repeat(streams.user_W, streams.last_W - streams.first_W)
    share_C = (count_C + 0.5) / (count_C + 0.5).sum()
    order = sorted(range(classes), key=lambda code: (-count_C[code], code))
    for target, rank in zip(targets, ranks, strict=True):
        past = np.arange(target)[user_N[:target] == user_N[target]]
        age_days = (streams.time_ms_N[target] - streams.time_ms_N[past]) / DAY_MS
        score_C = np.bincount(streams.item_N[past], 0.5 ** (age_days / half_life), classes)
        score_C = np.round(score_C + smoothing * share_C, 12)
        ranked = sorted(order, key=lambda code: -score_C[code])
        assert rank == ranked.index(streams.item_N[target])
    popularity_ranks = user_frequency.popularity_ranks(count_C, streams.item_N[targets])
    assert [order[rank] for rank in popularity_ranks] == streams.item_N[targets].tolist()


def test_chosen_settings_have_the_best_ndcg_on_the_targets():
    streams = views_and_purchases()
    all_windows = np.arange(len(streams.user_W))
    count_C = user_frequency.popularity(streams, streams.item_N, 30, all_windows)
    targets = np.flatnonzero(streams.time_ms_N > START_MS + 80 * DAY_MS)
    settings, rank_M = user_frequency.choose_settings(streams, streams.item_N, count_C, targets)
    np.testing.assert_array_equal(
        rank_M, user_frequency.target_ranks(streams, streams.item_N, count_C, targets, settings)
    )
    best_ndcg = user_frequency.ndcg_at_10(rank_M).mean()
    for half_life in user_frequency.HALF_LIVES_DAYS:
        for smoothing in user_frequency.SMOOTHING_EVENTS:
            other = user_frequency.UserFrequencySettings(half_life, smoothing)
            ranks = user_frequency.target_ranks(streams, streams.item_N, count_C, targets, other)
            assert user_frequency.ndcg_at_10(ranks).mean() <= best_ndcg
