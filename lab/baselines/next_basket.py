"""Published baseline models of next baskets beside those of `liveprofile model evaluate`.

Neighbours and similarities come from the windows of a source, as popularity does.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from lab.baselines import boosted, item_knn
from lab.baselines.basket_history import History, gp_topfreq
from lab.baselines.neighbours import Neighbours, TifuKnn, UpCf
from lab.baselines.tuning import (
    Rows,
    Source,
    Tune,
    Tuned,
    coordinate_search,
    rank_all,
    tune_own_counts,
    tune_recurrent,
    untuned,
)
from models.profile.evaluation.next_basket import Baskets
from models.profile.evaluation.next_basket_baselines import most_popular

if TYPE_CHECKING:
    from models.profile.data.prepared import Split

BOOSTED_TRAINING_ROWS = 6_000


def _neighbours(source: Source) -> Neighbours:
    last = source.reference[np.diff(source.baskets.user_W[source.reference], append=-1) != 0]
    history = History.before(source.baskets, last, source.popularity_C)
    return Neighbours(history, source.baskets.user_W[last])


def _groups(source: Source, rows: Rows) -> boosted.Groups | None:
    """The items' categories; None if the codes are categories or the data has none."""
    streams = source.streams
    if source.kind != "item" or not any(streams.categories):
        return None
    baskets = Baskets.from_streams(streams, "category")
    group_C = np.zeros(len(streams.items), np.int64)
    group_C[streams.item_N] = streams.category_N
    popularity_C = baskets.popularity(source.reference)
    return boosted.Groups(group_C, History.before(baskets, rows.history.window_R, popularity_C))


def _with_neighbours(start, choices, tuned_on: Source, tuning: Rows, on_try) -> Tuned:
    neighbours = _neighbours(tuned_on)
    chosen = coordinate_search(
        start,
        choices,
        lambda each: tuning.quality(each.rank(tuning.history, tuning.baskets.user_W, neighbours)),
        on_try,
    )

    def rank(source: Source, rows: Rows) -> np.ndarray:
        of_source = neighbours if source is tuned_on else _neighbours(source)
        return chosen.rank(rows.history, rows.baskets.user_W, of_source)

    return Tuned(chosen._asdict(), rank)


def _tifu_knn(tuned_on, tuning, _split, on_try) -> Tuned:
    choices = {
        "group_decay": (0.5, 0.8, 0.9, 1.0),
        "within_decay": (0.8, 0.95, 1.0),
        "own_share": (0.5, 0.9),
        "neighbours": (100, 900),
        "group_windows": (3, 14),
    }
    return _with_neighbours(TifuKnn(), choices, tuned_on, tuning, on_try)


def _up_cf(tuned_on, tuning, _split, on_try) -> Tuned:
    choices = {
        "recent_windows": (5, 10, 50, 100),
        "locality": (1, 5, 50, 100),
        "asymmetry": (0.0, 0.5, 0.75),
    }
    return _with_neighbours(UpCf(), choices, tuned_on, tuning, on_try)


def _item_knn(tuned_on: Source, tuning: Rows, _split, on_try) -> Tuned:
    cosines = item_knn.cosines(tuned_on.baskets, tuned_on.reference)
    chosen = coordinate_search(
        item_knn.ItemKnn(),
        {
            "self_weight": (0.0, 0.3, 3.0, 10.0),
            "neighbours": (10, 200),
            "half_life_days": (30.0, 120.0),
        },
        lambda each: tuning.quality(each.rank(tuning.history, cosines)),
        on_try,
    )

    def rank(source: Source, rows: Rows) -> np.ndarray:
        of_source = cosines
        if source is not tuned_on:
            of_source = item_knn.cosines(source.baskets, source.reference)
        return chosen.rank(rows.history, of_source)

    return Tuned(chosen._asdict(), rank)


def _boosted_ranker(tuned_on: Source, tuning: Rows, split: Split, on_fit) -> Tuned:
    # The later half of the training windows: their pasts are as long as those of validation.
    middle_ms = float(np.median(tuned_on.baskets.end_ms_W[split.train]))
    late = split.train[tuned_on.baskets.end_ms_W[split.train] > middle_ms]
    train = tuned_on.sample(late, BOOSTED_TRAINING_ROWS)
    inputs = [
        (boosted.candidates(each.history, _groups(tuned_on, each)), each.baskets)
        for each in (train, tuning)
    ]
    best = None
    for number, settings in enumerate(boosted.GRID, 1):
        fitted = boosted.BoostedRanker(settings).fit(*inputs)
        if best is None or fitted.quality > best.quality:
            best = fitted
        on_fit(number, len(boosted.GRID))

    def rank(source: Source, rows: Rows) -> np.ndarray:
        given = boosted.candidates(rows.history, _groups(source, rows))
        return best.rank(given, len(rows.baskets.window_W))

    return Tuned(best.settings, rank)


MODELS: dict[str, Tune] = {
    "popularity": lambda *_: Tuned(
        {}, lambda source, rows: most_popular(source.popularity_C, rows.history.rows)
    ),
    "gp_topfreq": untuned(gp_topfreq),
    "own_counts": tune_own_counts,
    "lstm": partial(tune_recurrent, nn.LSTM),
    "tifu_knn": _tifu_knn,
    "up_cf": _up_cf,
    "item_knn": _item_knn,
    "gru4rec": partial(tune_recurrent, nn.GRU),
    "boosted_ranker": _boosted_ranker,
}

rank_published = partial(rank_all, models=MODELS)
