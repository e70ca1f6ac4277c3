"""The next item or category by what the user had most, and by popularity.

A user's score of a class is how often they had it in all events before the one asked for, those of
the same window included, an event half as much after each half-life, plus a pseudo-count in
proportion to its popularity in training. Of equal classes the more popular comes first, then the
lower code. Every class is ranked, also those that training never saw.

Shape suffixes: N tokens of the streams, M targets among them, C classes, D classes of one user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from liveprofile.units import DAY_MS
from models.profile.data.training_rows import Streams

HALF_LIVES_DAYS = (14.0, 30.0, 60.0, 90.0, np.inf)
SMOOTHING_EVENTS = (0.0, 10.0, 30.0, 100.0, 300.0)
TARGETS_AT_ONCE = 512  # of one user: bounds the memory


class Settings(NamedTuple):
    half_life_days: float  # inf: every event counts alike
    smoothing_events: float  # all pseudo-counts together; 0: popularity decides ties alone


def popularity(
    streams: Streams, class_N: np.ndarray, classes: int, windows_W: np.ndarray
) -> np.ndarray:
    """(C,) how often each class comes in these windows."""
    inside_W = np.zeros(len(streams.user_W), bool)
    inside_W[windows_W] = True
    inside_N = np.repeat(inside_W, streams.last_W - streams.first_W)
    return np.bincount(class_N[inside_N], minlength=classes)


def popularity_ranks(popularity_C: np.ndarray, class_M: np.ndarray) -> np.ndarray:
    """(M,) how many classes are more popular, or as popular and of a lower code."""
    return _places(popularity_C)[class_M]


def ranks(
    streams: Streams,
    class_N: np.ndarray,
    popularity_C: np.ndarray,
    targets_M: np.ndarray,
    settings: Settings,
) -> np.ndarray:
    """(M,) how many classes come before the true one; `class_N`: the class of each token."""
    smoothing = (settings.smoothing_events,)
    return _ranks(streams, class_N, popularity_C, targets_M, settings.half_life_days, smoothing)[0]


def choose(
    streams: Streams,
    class_N: np.ndarray,
    popularity_C: np.ndarray,
    targets_M: np.ndarray,
    on_half_life: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Settings, np.ndarray]:
    """The settings with the best NDCG@10 of these targets, the first of equals, and their ranks."""
    best, found = -1.0, None
    for number, half_life in enumerate(HALF_LIVES_DAYS, 1):
        rank_SM = _ranks(streams, class_N, popularity_C, targets_M, half_life, SMOOTHING_EVENTS)
        for smoothing, rank_M in zip(SMOOTHING_EVENTS, rank_SM, strict=True):
            measured = gains(rank_M).mean()
            if measured > best:
                best, found = measured, (Settings(half_life, smoothing), rank_M)
        on_half_life(number, len(HALF_LIVES_DAYS))
    return found


def gains(rank_M: np.ndarray) -> np.ndarray:
    """NDCG@10 of each target (Jarvelin and Kekalainen 2002), its only relevant class."""
    near_M = np.minimum(rank_M, 10)  # the rank of what is no candidate is no number to add to
    return np.where(near_M < 10, 1 / np.log2(near_M + 2.0), 0.0)


def _ranks(
    streams: Streams,
    class_N: np.ndarray,
    popularity_C: np.ndarray,
    targets_M: np.ndarray,
    half_life_days: float,
    smoothing_events: tuple[float, ...],
) -> np.ndarray:
    """(S, M) for S smoothings."""
    place_C = _places(popularity_C)
    share_C = (popularity_C + 0.5) / (popularity_C + 0.5).sum()
    sorted_C = np.sort(share_C)[::-1]
    order_M = np.argsort(targets_M, kind="stable")
    rank_SM = np.empty((len(smoothing_events), len(targets_M)), np.int64)
    for begin, piece_M in _pieces(streams, targets_M, order_M):
        asked = targets_M[piece_M]
        class_D, column_E = np.unique(class_N[begin : asked[-1] + 1], return_inverse=True)
        count_MD = _counts(
            column_E, streams.time_ms_N[begin : asked[-1] + 1], asked - begin, half_life_days
        )
        true_M, place_D = column_E[asked - begin], place_C[class_D]
        place_M1 = place_D[true_M][:, None]
        for row, smoothing in enumerate(smoothing_events):
            score_MD = count_MD + smoothing * share_C[class_D]
            true_M1 = score_MD[np.arange(len(asked)), true_M][:, None]
            # All classes as if the user had had none of them, corrected by those they had.
            above_M1, upto_M1 = (
                np.searchsorted(-smoothing * sorted_C, -true_M1, side) for side in ("left", "right")
            )
            ahead_M1 = np.clip(place_M1, above_M1, upto_M1)
            before_MD = (score_MD > true_M1) | ((score_MD == true_M1) & (place_D < place_M1))
            known_M = before_MD.sum(1) - (place_D < ahead_M1).sum(1)
            rank_SM[row, piece_M] = ahead_M1[:, 0] + known_M
    return rank_SM


def _pieces(
    streams: Streams, targets_M: np.ndarray, order_M: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """A user's first token, and which targets, in order, are theirs; not too many at once."""
    user_M = np.repeat(streams.user_W, streams.last_W - streams.first_W)[targets_M[order_M]]
    bounds = np.flatnonzero(np.diff(user_M, prepend=-1, append=-1))
    for first, last in pairwise(bounds):
        begin = int(streams.first_W[np.searchsorted(streams.user_W, user_M[first])])
        for at in range(first, last, TARGETS_AT_ONCE):
            yield begin, order_M[at : min(at + TARGETS_AT_ONCE, last)]


def _counts(
    column_E: np.ndarray, time_ms_E: np.ndarray, asked_M: np.ndarray, half_life_days: float
) -> np.ndarray:
    """(M, D) of one user's events E how much of each column comes before each place asked for."""
    columns = column_E.max() + 1
    row_E = np.searchsorted(asked_M, np.arange(len(column_E)), side="right")
    before = row_E < len(asked_M)
    halvings_E = (time_ms_E - time_ms_E[-1]) / (half_life_days * DAY_MS)
    counts_MD = np.bincount(
        row_E[before] * columns + column_E[before],
        np.exp2(halvings_E[before]),
        len(asked_M) * columns,
    ).reshape(len(asked_M), columns)
    return np.cumsum(counts_MD, 0) * np.exp2(-halvings_E[asked_M])[:, None]


def _places(popularity_C: np.ndarray) -> np.ndarray:
    """(C,) place of each class, 0 the most popular."""
    place_C = np.empty(len(popularity_C), np.int64)
    place_C[np.argsort(-popularity_C, kind="stable")] = np.arange(len(popularity_C))
    return place_C
