"""What the value curves read of users at given times, and the windows whose labels are known.

Shape suffixes: M users, each at a given time; F user features; X inputs; W windows of the corpus.
"""

from __future__ import annotations

import numpy as np

from liveprofile.features import baselines
from liveprofile.features.baselines import SUMS
from liveprofile.units import DAY_MS
from liveprofile.wire.histories import MEMORY_WINDOWS
from models.profile import user_features
from models.profile.data.examples import PURCHASE, Corpus
from models.profile.data.prepared import Split
from models.profile.recipes import Recipe
from models.profile.values.inputs import PurchaseWindows, curve_inputs

AMOUNT, EVENTS = SUMS.index("amount"), SUMS.index("events")


def validation_windows(corpus: Corpus, split: Split) -> np.ndarray:
    """Windows whose horizon ends in the validation split, so that training uses none of them."""
    windows = np.arange(len(corpus.streams.end_ms_W))
    known_W = corpus.has_known_labels(windows, split.validation_until_ms)
    return windows[known_W & ~corpus.has_known_labels(windows, split.train_until_ms)]


def user_features_at(
    corpus: Corpus, recipe: Recipe, windows: np.ndarray, at_ms: np.ndarray
) -> np.ndarray:
    """(M, F) float32 `user_features.feature_matrix` of the windows' users at `at_ms`."""
    streams = corpus.streams
    base = baselines.read_baselines(streams.sums_WS[windows], at_ms, recipe.decay_days)
    first = windows - np.minimum(corpus.position_W[windows], recipe.history_windows)
    total = {
        column: np.concatenate([[0.0], np.cumsum(streams.added_WS[:, column])])
        for column in (EVENTS, AMOUNT)
    }
    events, amount = (total[c][windows + 1] - total[c][first] for c in (EVENTS, AMOUNT))
    days = (at_ms - streams.time_ms_N[streams.first_W[first]]) / DAY_MS
    recency = user_features.recency_days(at_ms, streams.last_purchase_ms_W[windows])
    return user_features.feature_matrix(
        base, recency, user_features.ActivitySummary(days, events, amount)
    )


def inputs_at(corpus: Corpus, recipe: Recipe, windows: np.ndarray, at_ms: np.ndarray) -> np.ndarray:
    """(M, X) inputs of the curves for the windows' users at times from the windows' ends on."""
    streams = corpus.streams
    bought_N = (streams.type_N == PURCHASE).astype(np.int64)
    purchases_W = np.add.reduceat(bought_N, streams.first_W)
    bought, before_W = PurchaseWindows.of(streams.user_W, streams.end_ms_W, purchases_W)
    first = windows - np.minimum(corpus.position_W[windows], MEMORY_WINDOWS - 1)
    return curve_inputs(
        user_features_at(corpus, recipe, windows, at_ms),
        bought,
        streams.user_W[windows],
        before_W[first],
        before_W[windows + 1],
        at_ms,
    )
