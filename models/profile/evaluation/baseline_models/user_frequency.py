"""Next-item and next-category baseline models: the user's own frequencies, and popularity.

A class (item or category) scores the number of the user's earlier events with it, including those
of the same window, plus a pseudo-count proportional to its popularity in training. An event's count
halves after each half-life. Ties go to the more popular class, then to the lower code. All classes
are ranked, including those that are absent from training.

Shape suffixes: N tokens of the streams, M targets among them, C classes, D classes of one user,
E events of one user, S smoothing settings.
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
MAX_TARGETS_PER_CHUNK = 512  # of one user: bounds the memory


class UserFrequencySettings(NamedTuple):
    half_life_days: float  # inf: all events count alike
    smoothing_events: float  # sum of all pseudo-counts; 0: popularity only breaks ties


def popularity(
    streams: Streams, class_N: np.ndarray, classes: int, windows_W: np.ndarray
) -> np.ndarray:
    """(C,) number of events of each class in these windows."""
    inside_W = np.zeros(len(streams.user_W), bool)
    inside_W[windows_W] = True
    inside_N = np.repeat(inside_W, streams.last_W - streams.first_W)
    return np.bincount(class_N[inside_N], minlength=classes)


def popularity_ranks(popularity_C: np.ndarray, class_M: np.ndarray) -> np.ndarray:
    """(M,) number of classes that are more popular, or as popular with a lower code."""
    return _popularity_rank(popularity_C)[class_M]


def target_ranks(
    streams: Streams,
    class_N: np.ndarray,
    popularity_C: np.ndarray,
    targets_M: np.ndarray,
    settings: UserFrequencySettings,
) -> np.ndarray:
    """(M,) number of classes ranked above the true one; `class_N` is the class of each token."""
    smoothing = (settings.smoothing_events,)
    return _ranks(streams, class_N, popularity_C, targets_M, settings.half_life_days, smoothing)[0]


def choose_settings(
    streams: Streams,
    class_N: np.ndarray,
    popularity_C: np.ndarray,
    targets_M: np.ndarray,
    on_half_life: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[UserFrequencySettings, np.ndarray]:
    """The settings with the best NDCG@10 on these targets (the first of ties), and their ranks."""
    best_ndcg, best = -1.0, None
    for number, half_life in enumerate(HALF_LIVES_DAYS, 1):
        rank_SM = _ranks(streams, class_N, popularity_C, targets_M, half_life, SMOOTHING_EVENTS)
        for smoothing, rank_M in zip(SMOOTHING_EVENTS, rank_SM, strict=True):
            ndcg = ndcg_at_10(rank_M).mean()
            if ndcg > best_ndcg:
                best_ndcg, best = ndcg, (UserFrequencySettings(half_life, smoothing), rank_M)
        on_half_life(number, len(HALF_LIVES_DAYS))
    return best


def ndcg_at_10(rank_M: np.ndarray) -> np.ndarray:
    """(M,) NDCG@10 of one relevant class at each rank (Jarvelin and Kekalainen 2002)."""
    rank_M = np.minimum(rank_M, 10)  # an unranked item has the largest int64
    return np.where(rank_M < 10, 1 / np.log2(rank_M + 2.0), 0.0)


def _ranks(
    streams: Streams,
    class_N: np.ndarray,
    popularity_C: np.ndarray,
    targets_M: np.ndarray,
    half_life_days: float,
    smoothing_events: tuple[float, ...],
) -> np.ndarray:
    """(S, M) rank of each target's class for S smoothing settings."""
    popularity_rank_C = _popularity_rank(popularity_C)
    share_C = (popularity_C + 0.5) / (popularity_C + 0.5).sum()
    sorted_C = np.sort(share_C)[::-1]
    order_M = np.argsort(targets_M, kind="stable")
    rank_SM = np.empty((len(smoothing_events), len(targets_M)), np.int64)
    for first_token, chunk_M in _target_chunks(streams, targets_M, order_M):
        targets = targets_M[chunk_M]
        end = targets[-1] + 1
        class_D, column_E = np.unique(class_N[first_token:end], return_inverse=True)
        count_MD = _decayed_counts(
            column_E, streams.time_ms_N[first_token:end], targets - first_token, half_life_days
        )
        true_M, popularity_rank_D = column_E[targets - first_token], popularity_rank_C[class_D]
        popularity_rank_M1 = popularity_rank_D[true_M][:, None]
        for row, smoothing in enumerate(smoothing_events):
            score_MD = count_MD + smoothing * share_C[class_D]
            true_M1 = score_MD[np.arange(len(targets)), true_M][:, None]
            # Rank among all classes as if the user had no events, then correct for the user's own.
            above_M1, upto_M1 = (
                np.searchsorted(-smoothing * sorted_C, -true_M1, side) for side in ("left", "right")
            )
            ahead_M1 = np.clip(popularity_rank_M1, above_M1, upto_M1)
            before_MD = (score_MD > true_M1) | (
                (score_MD == true_M1) & (popularity_rank_D < popularity_rank_M1)
            )
            correction_M = before_MD.sum(1) - (popularity_rank_D < ahead_M1).sum(1)
            rank_SM[row, chunk_M] = ahead_M1[:, 0] + correction_M
    return rank_SM


def _target_chunks(
    streams: Streams, targets_M: np.ndarray, order_M: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Each user's first token and the indices of a chunk of the user's targets, in order."""
    user_M = np.repeat(streams.user_W, streams.last_W - streams.first_W)[targets_M[order_M]]
    bounds = np.flatnonzero(np.diff(user_M, prepend=-1, append=-1))
    for first, last in pairwise(bounds):
        first_token = int(streams.first_W[np.searchsorted(streams.user_W, user_M[first])])
        for start in range(first, last, MAX_TARGETS_PER_CHUNK):
            yield first_token, order_M[start : min(start + MAX_TARGETS_PER_CHUNK, last)]


def _decayed_counts(
    column_E: np.ndarray, time_ms_E: np.ndarray, target_M: np.ndarray, half_life_days: float
) -> np.ndarray:
    """(M, D) decayed count of each column among the user's events before each target's index."""
    columns = column_E.max() + 1
    row_E = np.searchsorted(target_M, np.arange(len(column_E)), side="right")
    before = row_E < len(target_M)
    halvings_E = (time_ms_E - time_ms_E[-1]) / (half_life_days * DAY_MS)
    counts_MD = np.bincount(
        row_E[before] * columns + column_E[before],
        np.exp2(halvings_E[before]),
        len(target_M) * columns,
    ).reshape(len(target_M), columns)
    return np.cumsum(counts_MD, 0) * np.exp2(-halvings_E[target_M])[:, None]


def _popularity_rank(popularity_C: np.ndarray) -> np.ndarray:
    """(C,) rank of each class by popularity, 0 the most popular."""
    rank_C = np.empty(len(popularity_C), np.int64)
    rank_C[np.argsort(-popularity_C, kind="stable")] = np.arange(len(popularity_C))
    return rank_C
