"""Next-item models from counts alone: popularity and item-to-item co-occurrence.

An item's neighbours are the items that users had shortly after it or, at half the weight, shortly
before it. Counts are divided by powers of both items' popularities, because popular items co-occur
with every item (as in Deshpande and Karypis 2004, doi:10.1145/963770.963776). The order-dependent
weights follow Ludewig and Jannach 2018, arXiv:1803.09587.

Shape suffixes: B histories, N all items of all histories, I items.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse

MAX_DISTANCE = 10  # positions between the two items of a pair, at most
DISTANCE_DECAY = 0.9  # weight factor of each position beyond the first
BACKWARD_WEIGHT = 0.5


class Popularity:
    """Scores an item by its number of occurrences, alike for every user."""

    def __init__(self, histories: list[np.ndarray], items: int):
        self._count_I = np.bincount(np.concatenate(histories), minlength=items)

    def scores(self, histories: list[np.ndarray]) -> np.ndarray:
        """(B, I) float32."""
        return np.tile(self._count_I.astype(np.float32), (len(histories), 1))


class NeighbourSettings(NamedTuple):
    discount: float  # exponent of the history item's popularity; the neighbour's is 1 - discount
    shrink: float  # added to each popularity, damps pairs that co-occur by chance
    decay: float  # weight factor of each step back in the history


class CoOccurrenceCounts(NamedTuple):
    """Counts that do not depend on the settings."""

    popularity_I: np.ndarray  # occurrences of each item
    near_II: scipy.sparse.csr_matrix  # weighted count of column items near row items

    @classmethod
    def from_histories(cls, histories: list[np.ndarray], items: int) -> CoOccurrenceCounts:
        following_II = following_counts(histories, items, 1, MAX_DISTANCE)
        return cls(
            np.bincount(np.concatenate(histories), minlength=items),
            (following_II + BACKWARD_WEIGHT * following_II.T).tocsr(),
        )


class ItemNeighbours:
    """near_II: similarity of the column item to the row item. `decay`: see NeighbourSettings."""

    def __init__(self, near_II: scipy.sparse.csr_matrix, decay: float):
        self.near_II, self.decay = near_II, decay

    @classmethod
    def from_counts(cls, counts: CoOccurrenceCounts, settings: NeighbourSettings) -> ItemNeighbours:
        popularity_I = np.maximum(counts.popularity_I, 1) + settings.shrink
        row_scale = scipy.sparse.diags(popularity_I**-settings.discount)
        column_scale = scipy.sparse.diags(popularity_I ** -(1 - settings.discount))
        near_II = (row_scale @ counts.near_II @ column_scale).tocsr().astype(np.float32)
        return cls(near_II, settings.decay)

    def scores(self, histories: list[np.ndarray]) -> np.ndarray:
        """(B, I), 0 for items that are no neighbour of any history item."""
        items = len(self.near_II.indptr) - 1
        return (weighted_histories(histories, items, self.decay) @ self.near_II).toarray()


def weighted_histories(
    histories: list[np.ndarray],
    items: int,
    decay: float,
    nearest: int = 0,
    farthest: int | None = None,
) -> scipy.sparse.csr_matrix:
    """(B, I) sum of decay ** (steps back - nearest) over an item's occurrences in each history.

    Only the items from `nearest` to `farthest` steps back count; the last item is 0 steps back.
    """
    sizes = np.fromiter(map(len, histories), np.int64, len(histories))
    ends = np.cumsum(sizes)
    steps_back_N = np.repeat(ends, sizes) - 1 - np.arange(ends[-1])
    row_N = np.repeat(np.arange(len(histories)), sizes)
    kept = steps_back_N >= nearest
    if farthest is not None:
        kept &= steps_back_N <= farthest
    weight = decay ** (steps_back_N[kept] - nearest)
    position = (row_N[kept], np.concatenate(histories)[kept])
    return scipy.sparse.csr_matrix((weight, position), (len(histories), items), np.float32)


def following_counts(
    histories: list[np.ndarray], items: int, nearest: int, farthest: int
) -> scipy.sparse.csr_matrix:
    """(I, I) weighted count of column items `nearest` to `farthest` positions after row items."""
    starts = np.cumsum([0, *map(len, histories)])
    item_N = np.concatenate(histories)
    user_N = np.repeat(np.arange(len(histories)), np.diff(starts))
    following_II = scipy.sparse.csr_matrix((items, items), dtype=np.float64)
    for distance in range(nearest, farthest + 1):
        same_user = user_N[:-distance] == user_N[distance:]
        pair = (item_N[:-distance][same_user], item_N[distance:][same_user])
        weight = np.full(len(pair[0]), DISTANCE_DECAY ** (distance - 1))
        following_II = following_II + scipy.sparse.csr_matrix((weight, pair), (items, items))
    return following_II.tocsr()
