"""Tunes the published models of next baskets on validation, like the user model.

Neighbours, similarities and popularity come from the training windows, or from training and
validation when the test split is ranked. Networks and trees are trained on training windows only,
as the user model is.

Shape suffixes: W windows of the streams, R rows (windows with a known next basket), K places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from lab.baselines.basket_history import History
from liveprofile.progress import Progress
from models.profile.data.training_rows import Streams
from models.profile.evaluation.next_basket import (
    Baskets,
    Kind,
    NextBaskets,
    basket_scores,
    next_baskets,
    subset,
)
from models.profile.evaluation.next_basket_baselines import (
    HALF_LIVES,
    TUNING_ROWS,
    WEIGHTS,
    BaselineRanking,
    Cell,
    OwnCounts,
    fit_recurrent,
)

if TYPE_CHECKING:
    from models.profile.data.prepared import Split


Settings = TypeVar("Settings", bound=Any)
CHOICES = {
    "half_life_days": HALF_LIVES,
    "per_event": (True,),
    "popularity_weight": WEIGHTS,
}


def coordinate_search(
    start: Settings,
    choices: Mapping[str, Sequence[Any]],
    quality: Callable[[Settings], float],
    on_try: Callable[[int, int], None] = lambda done, total: None,
) -> Settings:
    """Improves one setting after the other, in the order of `choices`, from `start`.

    Keeps the earlier of two equally good settings. `on_try` receives the settings tried and their
    largest number.
    """
    best, best_quality = start, quality(start)
    total, tried = 1 + sum(len(values) for values in choices.values()), 1
    on_try(tried, total)
    for name, values in choices.items():
        for value in values:
            candidate = best._replace(**{name: value})
            tried += 1
            if candidate != best and (its_quality := quality(candidate)) > best_quality:
                best, best_quality = candidate, its_quality
            on_try(tried, total)
    return best


class Rows(NamedTuple):
    """Windows with their pasts, which are the input of the models, and their next baskets."""

    baskets: NextBaskets
    history: History

    def quality(self, ranking_RK: np.ndarray) -> float:
        return float(basket_scores(self.baskets, ranking_RK).ndcg_at_10.mean())


class Source:
    """Makes rows of one kind, with the popularity and the neighbours of one reference time."""

    def __init__(self, streams: Streams, kind: Kind, reference: np.ndarray):
        self.streams, self.kind = streams, kind
        self.baskets = Baskets.from_streams(streams, kind)
        self.reference = reference
        self.popularity_C = self.baskets.popularity(reference)

    def rows(self, targets: NextBaskets) -> Rows:
        return Rows(targets, History.before(self.baskets, targets.window_W, self.popularity_C))

    def sample(self, windows: np.ndarray, most: int) -> Rows:
        """At most `most` of the targets in `windows`."""
        targets = next_baskets(self.streams, self.kind, windows)
        return self.rows(subset(targets, most))


class Tuned(NamedTuple):
    """A model with the settings that validation has chosen."""

    settings: dict[str, Any]
    rank: Callable[[Source, Rows], np.ndarray]  # with what the source says


# From the source and the rows that it tunes on, the split, and a callback for its progress.
Tune = Callable[["Source", "Rows", "Split", Callable[[int, int], None]], Tuned]


def rank_all(
    streams: Streams,
    kind: Kind,
    split: Split,
    targets: NextBaskets,
    refreshed: bool,
    on_progress: Progress = lambda stage, done, total: None,
    *,
    models: Mapping[str, Tune],
) -> dict[str, BaselineRanking]:
    """The rankings of `models` for `targets`, with settings tuned on validation.

    refreshed: whether popularity, similarities and neighbours include the validation split.
    """
    reference = np.union1d(split.train, split.validation) if refreshed else split.train
    ranked = rank_as_of(streams, kind, split, targets, {"only": reference}, models, on_progress)
    return {name: rankings["only"] for name, rankings in ranked.items()}


def rank_as_of(
    streams: Streams,
    kind: Kind,
    split: Split,
    targets: NextBaskets,
    references: Mapping[str, np.ndarray],
    models: Mapping[str, Tune],
    on_progress: Progress = lambda stage, done, total: None,
) -> dict[str, dict[str, BaselineRanking]]:
    """By model and reference: the rankings for `targets`, with settings tuned once on validation.

    references: by name, the windows that popularity, similarities and neighbours come from. models:
    how each is tuned.
    """
    tuned_on = Source(streams, kind, split.train)
    tuning = tuned_on.sample(split.validation, TUNING_ROWS)
    sources = {
        name: tuned_on if reference is split.train else Source(streams, kind, reference)
        for name, reference in references.items()
    }
    rows = {name: source.rows(targets) for name, source in sources.items()}
    rankings: dict[str, dict[str, BaselineRanking]] = {}
    for model, tune in models.items():
        tuned = tune(
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


def untuned(rank: Callable[[History], np.ndarray]) -> Tune:
    return lambda *_: Tuned({}, lambda _source, rows: rank(rows.history))


def tune_own_counts(tuned_on: Source, tuning: Rows, _split, on_try) -> Tuned:
    def rank(counts: OwnCounts, source: Source, rows: Rows) -> np.ndarray:
        return counts.rank(source.baskets, rows.history.window_R, source.popularity_C)

    chosen = coordinate_search(
        OwnCounts(), CHOICES, lambda each: tuning.quality(rank(each, tuned_on, tuning)), on_try
    )
    return Tuned(chosen._asdict(), lambda source, rows: rank(chosen, source, rows))


def tune_recurrent(cell: Cell, tuned_on: Source, tuning: Rows, split: Split, on_epoch) -> Tuned:
    fitted = fit_recurrent(
        cell,
        tuned_on.baskets,
        next_baskets(tuned_on.streams, tuned_on.kind, split.train),
        lambda each: tuning.quality(each.rank(tuned_on.baskets, tuning.baskets.window_W)),
        on_epoch,
    )
    return Tuned(
        {"epochs": fitted.epochs},
        lambda source, rows: fitted.rank(source.baskets, rows.baskets.window_W),
    )
