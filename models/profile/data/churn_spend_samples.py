"""What the churn and spend head learns from: users at window ends, with their labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from liveprofile.features import baselines
from liveprofile.features.baselines import SUMS
from liveprofile.units import DAY_MS
from models.profile import user_features
from models.profile.data.batched_inference import passes
from models.profile.data.examples import Corpus, purchases_after
from models.profile.data.prepared import Split
from models.profile.network import BehaviourTransformer
from models.profile.recipes import Recipe

AMOUNT, EVENTS = SUMS.index("amount"), SUMS.index("events")


class Samples(NamedTuple):
    """Users at times: M of them."""

    numbers_MX: Tensor
    state_MD: Tensor
    left_M: Tensor  # float: 1 for no purchase in the horizon
    spend_M: Tensor


def validation_windows(corpus: Corpus, parts: Split) -> np.ndarray:
    """Windows whose horizon ends in the validation part: no label of theirs is known before it."""
    known = _known(corpus, parts.validation_until_ms)
    return known[~corpus.known_labels(known, parts.train_until_ms)]


def _known(corpus: Corpus, until_ms: int) -> np.ndarray:
    windows = np.arange(len(corpus.streams.end_ms_W))
    return windows[corpus.known_labels(windows, until_ms)]


def samples(
    model: BehaviourTransformer,
    corpus: Corpus,
    recipe: Recipe,
    windows: np.ndarray,
    at_ms: np.ndarray,
) -> Samples:
    """The users of `windows` (ascending) as they are known at `at_ms`, not before their ends."""
    purchases, spend = purchases_after(corpus.streams, windows, at_ms, corpus.horizon_ms)
    distinct, place = np.unique(windows, return_inverse=True)
    state = torch.cat([one.ends() for one in passes(model, corpus, distinct, recipe)]).clone()
    return Samples(
        torch.from_numpy(numbers_at(corpus, recipe, windows, at_ms)),
        state[torch.from_numpy(place)],
        torch.from_numpy((purchases == 0).astype(np.float32)),
        torch.from_numpy(spend.astype(np.float32)),
    )


def numbers_at(
    corpus: Corpus, recipe: Recipe, windows: np.ndarray, at_ms: np.ndarray
) -> np.ndarray:
    """(M, X) float32: models.profile.user_features.numbers, of the windows' users at these times."""
    streams = corpus.streams
    base = baselines.read(streams.sums_WS[windows], at_ms, recipe.decay_days)
    first = windows - np.minimum(corpus.position_W[windows], recipe.history_windows)
    added_WS = streams.added_WS
    total = {
        column: np.concatenate([[0.0], np.cumsum(added_WS[:, column])])
        for column in (EVENTS, AMOUNT)
    }
    events, amount = (total[c][windows + 1] - total[c][first] for c in (EVENTS, AMOUNT))
    days = (at_ms - streams.time_ms_N[streams.first_W[first]]) / DAY_MS
    recency = user_features.recency_days(at_ms, streams.last_purchase_ms_W[windows])
    return user_features.numbers(base, recency, user_features.Recent(days, events, amount))


def _between(
    corpus: Corpus, windows: np.ndarray, known_ms: int, random: np.random.Generator
) -> np.ndarray:
    """A time between each window's end and the user's next event, or `known_ms` if that is less."""
    streams = corpus.streams
    following = np.minimum(windows + 1, len(streams.user_W) - 1)
    same_user = (following > windows) & (streams.user_W[following] == streams.user_W[windows])
    next_ms = np.where(same_user, streams.time_ms_N[streams.first_W[following]], known_ms)
    end_ms = streams.end_ms_W[windows]
    room_ms = np.maximum(np.minimum(next_ms, known_ms) - end_ms, 0)
    return end_ms + (random.random(len(windows)) * room_ms).astype(np.int64)
