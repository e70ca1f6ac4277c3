"""Item to item: what is had near what, from counts alone.

An item's neighbours are those that users had shortly after it, or, at half the weight, shortly
before. Popular ones are everyone's neighbours, so counts are divided by powers of both popularities
(as in Deshpande and Karypis 2004, doi:10.1145/963770.963776); that the order counts follows
Ludewig and Jannach 2018, arXiv:1803.09587.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse

REACH = 10  # items apart
PER_STEP = 0.9  # weight of each item further apart
BACKWARDS = 0.5


class Popularity:
    """How many times an item was had, for everyone."""

    def __init__(self, histories: list[np.ndarray], items: int):
        self._count_I = np.bincount(np.concatenate(histories), minlength=items)

    def scores(self, histories: list[np.ndarray]) -> np.ndarray:
        return np.tile(self._count_I.astype(np.float32), (len(histories), 1))


class Settings(NamedTuple):
    """`discount`: the power of the neighbour's popularity is 1 minus it. `shrink`: added to each
    popularity, against items that were seen by chance. `decay`: of each item further back."""

    discount: float
    shrink: float
    decay: float


class Counts(NamedTuple):
    """What all settings have in common."""

    popular_I: np.ndarray  # how often each item was had
    near_II: scipy.sparse.csr_matrix  # how often, weighted, a row's item was had near a column's

    @classmethod
    def of(cls, histories: list[np.ndarray], items: int) -> Counts:
        return cls(np.bincount(np.concatenate(histories), minlength=items), _near(histories, items))


class Neighbours:
    """near_II: how near a column's item is to a row's."""

    def __init__(self, near_II: scipy.sparse.csr_matrix, decay: float):
        self.near_II, self.decay = near_II, decay

    @classmethod
    def of(cls, counts: Counts, settings: Settings) -> Neighbours:
        popular_I = np.maximum(counts.popular_I, 1) + settings.shrink
        had = scipy.sparse.diags(popular_I**-settings.discount)
        next_ = scipy.sparse.diags(popular_I ** -(1 - settings.discount))
        return cls((had @ counts.near_II @ next_).tocsr().astype(np.float32), settings.decay)

    def scores(self, histories: list[np.ndarray]) -> np.ndarray:
        """(B, I), 0 for what is no neighbour of anything in the history."""
        sizes = np.fromiter(map(len, histories), np.int64, len(histories))
        ends = np.cumsum(sizes)
        back = np.repeat(ends, sizes) - 1 - np.arange(ends[-1])
        rows = np.repeat(np.arange(len(histories)), sizes)
        had = scipy.sparse.csr_matrix(
            (self.decay**back, (rows, np.concatenate(histories))),
            (len(histories), len(self.near_II.indptr) - 1),
            np.float32,
        )
        return (had @ self.near_II).toarray()


def _near(histories: list[np.ndarray], items: int) -> scipy.sparse.csr_matrix:
    starts = np.cumsum([0, *map(len, histories)])
    item_N = np.concatenate(histories)
    user_N = np.repeat(np.arange(len(histories)), np.diff(starts))
    near = scipy.sparse.csr_matrix((items, items), dtype=np.float64)
    for step in range(1, REACH + 1):
        same = user_N[:-step] == user_N[step:]
        pair = (item_N[:-step][same], item_N[step:][same])
        weight = np.full(len(pair[0]), PER_STEP ** (step - 1))
        forwards = scipy.sparse.csr_matrix((weight, pair), (items, items))
        near = near + forwards + BACKWARDS * forwards.T
    return near.tocsr()
