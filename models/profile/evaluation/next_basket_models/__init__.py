"""Baseline models of next baskets, tuned on validation like the user model.

Neighbours, similarities and popularity come from the training windows, or from training and
validation when the test split is ranked. Networks and trees are trained on training windows only,
as the user model is.

Shape suffixes: W windows of the streams, R rows (windows with a known next basket), K places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


class _Tuned(NamedTuple):
    """A model with the settings that validation has chosen."""

    settings: dict[str, Any]
    rank: Callable[[_Source, _Rows], np.ndarray]  # with a source's popularity and neighbours


# From the source and the rows that it tunes on, the split, and a callback for its progress.
_Tune = Callable[["_Source", "_Rows", "Split", Callable[[int, int], None]], _Tuned]


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
    reference = np.union1d(split.train, split.validation) if refreshed else split.train
    ranked = rank_as_of(
        streams, kind, split, targets, {"only": reference}, tuple(_MODELS), on_progress
    )
    return {name: rankings["only"] for name, rankings in ranked.items()}


def rank_as_of(
    streams: Streams,
    kind: Kind,
    split: Split,
    targets: NextBaskets,
    references: Mapping[str, np.ndarray],
    models: Sequence[str],
    on_progress: Progress = lambda stage, done, total: None,
) -> dict[str, dict[str, BaselineRanking]]:
    """By model and reference: the rankings for `targets`, with settings tuned once on validation.

    references: by name, the windows that popularity, similarities and neighbours come from. models:
    the names of some baseline models.
    """
    tuned_on = _Source(streams, kind, split.train)
    tuning = tuned_on.sample(split.validation, TUNING_ROWS)
    sources = {
        name: tuned_on if reference is split.train else _Source(streams, kind, reference)
        for name, reference in references.items()
    }
    rows = {name: source.rows(targets) for name, source in sources.items()}
    rankings: dict[str, dict[str, BaselineRanking]] = {}
    for model in models:
        tuned = _MODELS[model](
            tuned_on,
            tuning,
            split,
            lambda done, total, model=model: on_progress(f"{model}, {kind}", done, total),
        )
        rankings[model] = {
            name: BaselineRanking(tuned.rank(source, rows[name]), tuned.settings)
            for name, source in sources.items()
        }
    return rankings


def _untuned(rank: Callable[[History], np.ndarray]) -> _Tune:
    return lambda *_: _Tuned({}, lambda _source, rows: rank(rows.history))


def _own_counts(_source, tuning: _Rows, _split, on_try) -> _Tuned:
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
    return _Tuned(chosen._asdict(), lambda _source, rows: chosen.rank(rows.history))


def _with_neighbours(start, choices, tuned_on: _Source, tuning: _Rows, on_try) -> _Tuned:
    neighbours = tuned_on.neighbours()
    chosen = coordinate_search(
        start,
        choices,
        lambda each: tuning.quality(each.rank(tuning.history, tuning.baskets.user_W, neighbours)),
        on_try,
    )

    def rank(source: _Source, rows: _Rows) -> np.ndarray:
        of_source = neighbours if source is tuned_on else source.neighbours()
        return chosen.rank(rows.history, rows.baskets.user_W, of_source)

    return _Tuned(chosen._asdict(), rank)


def _tifu_knn(tuned_on, tuning, _split, on_try) -> _Tuned:
    choices = {
        "group_decay": (0.5, 0.8, 0.9, 1.0),
        "within_decay": (0.8, 0.95, 1.0),
        "own_share": (0.5, 0.9),
        "neighbours": (100, 900),
        "group_windows": (3, 14),
    }
    return _with_neighbours(TifuKnn(), choices, tuned_on, tuning, on_try)


def _up_cf(tuned_on, tuning, _split, on_try) -> _Tuned:
    choices = {
        "recent_windows": (5, 10, 50, 100),
        "locality": (1, 5, 50, 100),
        "asymmetry": (0.0, 0.5, 0.75),
    }
    return _with_neighbours(UpCf(), choices, tuned_on, tuning, on_try)


def _item_knn(tuned_on: _Source, tuning: _Rows, _split, on_try) -> _Tuned:
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

    def rank(source: _Source, rows: _Rows) -> np.ndarray:
        of_source = cosines
        if source is not tuned_on:
            of_source = item_knn.cosines(source.baskets, source.reference)
        return chosen.rank(rows.history, of_source)

    return _Tuned(chosen._asdict(), rank)


def _recurrent(
    cell: recurrent.Cell, tuned_on: _Source, tuning: _Rows, split: Split, on_epoch
) -> _Tuned:
    fitted = recurrent.fit(
        cell,
        tuned_on.baskets,
        split.train,
        lambda each: tuning.quality(each.rank(tuned_on.baskets, tuning.baskets.window_W)),
        on_epoch,
    )
    return _Tuned(
        {"epochs": fitted.epochs},
        lambda source, rows: fitted.rank(source.baskets, rows.baskets.window_W),
    )


def _boosted_ranker(tuned_on: _Source, tuning: _Rows, split: Split, on_fit) -> _Tuned:
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

    def rank(_source: _Source, rows: _Rows) -> np.ndarray:
        given = boosted.candidates(rows.history, rows.groups)
        return best.rank(given, len(rows.baskets.window_W))

    return _Tuned(best.settings, rank)


def _middle_ms(source: _Source, split: Split) -> float:
    return float(np.median(source.baskets.end_ms_W[split.train]))


_MODELS: dict[str, _Tune] = {
    "popularity": _untuned(popularity),
    "gp_topfreq": _untuned(gp_topfreq),
    "own_counts": _own_counts,
    "tifu_knn": _tifu_knn,
    "up_cf": _up_cf,
    "item_knn": _item_knn,
    "gru4rec": partial(_recurrent, nn.GRU),
    "lstm": partial(_recurrent, nn.LSTM),
    "boosted_ranker": _boosted_ranker,
}
