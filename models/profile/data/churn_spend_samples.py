"""Training samples of the churn and spend head: users at given times, with their labels.

Shape suffixes: M samples; X user features; D model width; W windows of the corpus; S sums.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from liveprofile.features import baselines
from liveprofile.features.baselines import SUMS
from liveprofile.units import DAY_MS
from models.profile import user_features
from models.profile.data.batched_inference import run_trunk
from models.profile.data.examples import Corpus, purchases_after
from models.profile.data.prepared import Split
from models.profile.network import BehaviourTransformer
from models.profile.recipes import Recipe

AMOUNT, EVENTS = SUMS.index("amount"), SUMS.index("events")


class Samples(NamedTuple):
    """M users, each at a given time."""

    user_features_MX: Tensor
    state_MD: Tensor
    churned_M: Tensor  # float: 1 for no purchase within the horizon
    spend_M: Tensor  # currency within the horizon


def validation_windows(corpus: Corpus, split: Split) -> np.ndarray:
    """Windows whose horizon ends in the validation split, so that training uses none of them."""
    known = labelled_windows(corpus, split.validation_until_ms)
    return known[~corpus.has_known_labels(known, split.train_until_ms)]


def labelled_windows(corpus: Corpus, until_ms: int) -> np.ndarray:
    windows = np.arange(len(corpus.streams.end_ms_W))
    return windows[corpus.has_known_labels(windows, until_ms)]


def samples(
    model: BehaviourTransformer,
    corpus: Corpus,
    recipe: Recipe,
    windows: np.ndarray,
    at_ms: np.ndarray,
) -> Samples:
    """Samples of the users of `windows`, which must ascend, at `at_ms`.

    `at_ms` must not be before the windows' ends.
    """
    purchases, spend = purchases_after(corpus.streams, windows, at_ms, corpus.horizon_ms)
    distinct, inverse = np.unique(windows, return_inverse=True)
    state = torch.cat(
        [output.last_states() for output in run_trunk(model, corpus, distinct, recipe)]
    ).clone()
    return Samples(
        torch.from_numpy(user_features_at(corpus, recipe, windows, at_ms)),
        state[torch.from_numpy(inverse)],
        torch.from_numpy((purchases == 0).astype(np.float32)),
        torch.from_numpy(spend.astype(np.float32)),
    )


def user_features_at(
    corpus: Corpus, recipe: Recipe, windows: np.ndarray, at_ms: np.ndarray
) -> np.ndarray:
    """(M, X) float32 `user_features.feature_matrix` of the windows' users at `at_ms`."""
    streams = corpus.streams
    base = baselines.read_baselines(streams.sums_WS[windows], at_ms, recipe.decay_days)
    first = windows - np.minimum(corpus.position_W[windows], recipe.history_windows)
    added_WS = streams.added_WS
    total = {
        column: np.concatenate([[0.0], np.cumsum(added_WS[:, column])])
        for column in (EVENTS, AMOUNT)
    }
    events, amount = (total[c][windows + 1] - total[c][first] for c in (EVENTS, AMOUNT))
    days = (at_ms - streams.time_ms_N[streams.first_W[first]]) / DAY_MS
    recency = user_features.recency_days(at_ms, streams.last_purchase_ms_W[windows])
    return user_features.feature_matrix(
        base, recency, user_features.ActivitySummary(days, events, amount)
    )


def random_times_after_windows(
    corpus: Corpus, windows: np.ndarray, known_ms: int, random: np.random.Generator
) -> np.ndarray:
    """Draws a time from each window's end to the user's next event, at most `known_ms`."""
    streams = corpus.streams
    following = np.minimum(windows + 1, len(streams.user_W) - 1)
    same_user = (following > windows) & (streams.user_W[following] == streams.user_W[windows])
    next_ms = np.where(same_user, streams.time_ms_N[streams.first_W[following]], known_ms)
    end_ms = streams.end_ms_W[windows]
    range_ms = np.maximum(np.minimum(next_ms, known_ms) - end_ms, 0)
    return end_ms + (random.random(len(windows)) * range_ms).astype(np.int64)
