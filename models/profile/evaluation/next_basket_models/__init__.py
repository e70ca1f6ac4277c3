"""Baseline models of next baskets, tuned on validation like the user model.

Neighbours, similarities and popularity come from the training windows, or from training and
validation when the test split is ranked. Networks and trees are trained on training windows only,
as the user model is.

Shape suffixes: W windows of the streams, R rows (windows with a known next basket), K places.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import nn

from liveprofile.progress import Progress
from models.profile.data.training_rows import Streams
from models.profile.evaluation.next_basket import (
    Kind,
    NextBaskets,
    basket_scores,
    next_baskets,
)
from models.profile.evaluation.next_basket_models import boosted, item_knn, recurrent
from models.profile.evaluation.next_basket_models.history import Baskets, History
from models.profile.evaluation.next_basket_models.neighbours import Neighbours, TifuKnn, UpCf
from models.profile.evaluation.next_basket_models.own_counts import (
    HALF_LIVES_DAYS,
    POPULARITY_WEIGHTS,
    OwnCounts,
    gp_topfreq,
    popularity,
)
from models.profile.evaluation.next_basket_models.ranking import coordinate_search

if TYPE_CHECKING:
    from models.profile.data.prepared import Split

TUNING_ROWS = 2_000
BOOSTED_TRAINING_ROWS = 6_000
SEED = 20170930


class BaselineRanking(NamedTuple):
    """(R, K) codes, best first, and the settings that validation chose."""

    ranking_RK: np.ndarray
    settings: dict[str, Any]


class _Rows(NamedTuple):
    """Windows with their pasts, which are the input of the models, and their next baskets."""

    baskets: NextBaskets
    history: History
    groups: boosted.Groups | None

    def quality(self, ranking_RK: np.ndarray) -> float:
        return float(basket_scores(self.baskets, ranking_RK).ndcg_at_10.mean())


class _Source:
    """Makes rows of one kind, with the popularity and the neighbours of one reference time."""

    def __init__(self, streams: Streams, kind: Kind, reference: np.ndarray):
        self.streams, self.kind = streams, kind
        self.baskets = Baskets.from_streams(streams, kind)
        self.reference = reference
        self._popularity_C = self.baskets.popularity(reference)
        self._groups = None
        if kind == "item" and any(streams.categories):
            self._groups = Baskets.from_streams(streams, "category")
            self._group_popularity_C = self._groups.popularity(reference)
            self._group_C = np.zeros(len(streams.items), np.int64)
            self._group_C[streams.item_N] = streams.category_N

    def rows(self, targets: NextBaskets) -> _Rows:
        groups = None
        if self._groups is not None:
            past = History.before(self._groups, targets.window_W, self._group_popularity_C)
            groups = boosted.Groups(self._group_C, past)
        history = History.before(self.baskets, targets.window_W, self._popularity_C)
        return _Rows(targets, history, groups)

    def sample(self, windows: np.ndarray, most: int) -> _Rows:
        """At most `most` of the targets in `windows`."""
        targets = next_baskets(self.streams, self.kind, windows)
        return self.rows(subset(targets, most))

    def neighbours(self) -> Neighbours:
        last = self.reference[np.diff(self.baskets.user_W[self.reference], append=-1) != 0]
        history = History.before(self.baskets, last, self._popularity_C)
        return Neighbours(history, self.baskets.user_W[last])


def subset(targets: NextBaskets, most: int) -> NextBaskets:
    """At most `most` random windows of `targets`, always the same ones."""
    if len(targets.window_W) <= most:
        return targets
    rows = np.random.default_rng(SEED).choice(len(targets.window_W), most, replace=False)
    rows.sort()
    chosen_M = np.isin(targets.row_M, rows)
    return NextBaskets(
        targets.window_W[rows],
        targets.user_W[rows],
        np.searchsorted(rows, targets.row_M[chosen_M]),
        targets.code_M[chosen_M],
        targets.had_before_M[chosen_M],
        targets.codes,
    )


def rank_all(
    streams: Streams,
    kind: Kind,
    split: Split,
    targets: NextBaskets,
    refreshed: bool,
    on_progress: Progress = lambda stage, done, total: None,
) -> dict[str, BaselineRanking]:
    """The rankings of every baseline model for `targets`, with settings tuned on validation.

    refreshed: whether popularity, similarities and neighbours include the validation split.
    """
    tuned_on = _Source(streams, kind, split.train)
    tuning = tuned_on.sample(split.validation, TUNING_ROWS)
    source = tuned_on
    if refreshed:
        source = _Source(streams, kind, np.union1d(split.train, split.validation))
    rows = source.rows(targets)
    models: dict[str, Callable[..., BaselineRanking]] = {
        "own_counts": _own_counts,
        "tifu_knn": _tifu_knn,
        "up_cf": _up_cf,
        "item_knn": _item_knn,
        "gru4rec": partial(_recurrent, nn.GRU),
        "lstm": partial(_recurrent, nn.LSTM),
        "boosted_ranker": _boosted_ranker,
    }
    rankings = {
        "popularity": BaselineRanking(popularity(rows.history), {}),
        "gp_topfreq": BaselineRanking(gp_topfreq(rows.history), {}),
    }
    for name, model in models.items():
        rankings[name] = model(
            tuned_on,
            tuning,
            source,
            rows,
            split,
            lambda done, total, name=name: on_progress(f"{name}, {kind}", done, total),
        )
    return rankings


def _own_counts(_tuned_on, tuning: _Rows, _source, rows: _Rows, _split, on_try) -> BaselineRanking:
    chosen = coordinate_search(
        OwnCounts(60.0, 10.0, False),
        {
            "half_life_days": HALF_LIVES_DAYS,
            "per_event": (True,),
            "popularity_weight": POPULARITY_WEIGHTS,
        },
        lambda each: tuning.quality(each.rank(tuning.history)),
        on_try,
    )
    return BaselineRanking(chosen.rank(rows.history), chosen._asdict())


def _with_neighbours(start, choices, tuned_on, tuning, source, rows, on_try) -> BaselineRanking:
    neighbours = tuned_on.neighbours()
    chosen = coordinate_search(
        start,
        choices,
        lambda each: tuning.quality(each.rank(tuning.history, tuning.baskets.user_W, neighbours)),
        on_try,
    )
    if source is not tuned_on:
        neighbours = source.neighbours()
    ranking_RK = chosen.rank(rows.history, rows.baskets.user_W, neighbours)
    return BaselineRanking(ranking_RK, chosen._asdict())


def _tifu_knn(tuned_on, tuning, source, rows, _split, on_try) -> BaselineRanking:
    choices = {
        "group_decay": (0.5, 0.8, 0.9, 1.0),
        "within_decay": (0.8, 0.95, 1.0),
        "own_share": (0.5, 0.9),
        "neighbours": (100, 900),
        "group_windows": (3, 14),
    }
    return _with_neighbours(TifuKnn(), choices, tuned_on, tuning, source, rows, on_try)


def _up_cf(tuned_on, tuning, source, rows, _split, on_try) -> BaselineRanking:
    choices = {
        "recent_windows": (5, 10, 50, 100),
        "locality": (1, 5, 50, 100),
        "asymmetry": (0.0, 0.5, 0.75),
    }
    return _with_neighbours(UpCf(), choices, tuned_on, tuning, source, rows, on_try)


def _item_knn(tuned_on, tuning, source, rows, _split, on_try) -> BaselineRanking:
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
    if source is not tuned_on:
        cosines = item_knn.cosines(source.baskets, source.reference)
    return BaselineRanking(chosen.rank(rows.history, cosines), chosen._asdict())


def _recurrent(
    cell: recurrent.Cell, tuned_on, tuning, source, rows, split, on_epoch
) -> BaselineRanking:
    fitted = recurrent.fit(
        cell,
        tuned_on.baskets,
        split.train,
        lambda each: tuning.quality(each.rank(tuned_on.baskets, tuning.baskets.window_W)),
        on_epoch,
    )
    ranking_RK = fitted.rank(source.baskets, rows.baskets.window_W)
    return BaselineRanking(ranking_RK, {"epochs": fitted.epochs})


def _boosted_ranker(tuned_on, tuning, _source, rows, split, on_fit) -> BaselineRanking:
    # The later half of the training windows: their pasts are as long as those of validation.
    late = split.train[tuned_on.baskets.end_ms_W[split.train] > _middle_ms(tuned_on, split)]
    train = tuned_on.sample(late, BOOSTED_TRAINING_ROWS)
    inputs = [
        (boosted.candidates(each.history, each.groups), each.baskets) for each in (train, tuning)
    ]
    best = None
    for number, settings in enumerate(boosted.GRID, 1):
        fitted = boosted.BoostedRanker(settings).fit(*inputs)
        if best is None or fitted.quality > best.quality:
            best = fitted
        on_fit(number, len(boosted.GRID))
    given = boosted.candidates(rows.history, rows.groups)
    return BaselineRanking(best.rank(given, len(rows.baskets.window_W)), best.settings)


def _middle_ms(source: _Source, split: Split) -> float:
    return float(np.median(source.baskets.end_ms_W[split.train]))
