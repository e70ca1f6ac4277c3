"""Next baskets by the baskets of similar users: TIFU-KNN and UP-CF.

The past of each row is compared with the vectors of all users as of a fixed time (the neighbours),
the row's own user excluded.

Shape suffixes: R rows, U neighbours, C codes, B rows of a block, K places, E entries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array

from lab.baselines.basket_history import History
from models.profile.evaluation.next_basket import PLACES

BLOCK_ROWS = 256


def best_of_blocks(history: History, score: Callable[[slice], np.ndarray]) -> np.ndarray:
    """(R, K) the codes with the highest scores of each row, best first.

    score: returns (B, C) scores of a block of rows. Popularity, at a weight that only breaks ties,
    completes rankings with fewer than K positive scores.
    """
    tie_C = history.popularity_C / max(history.popularity_C.sum(), 1) * 1e-9
    best = []
    for first in range(0, history.rows, BLOCK_ROWS):
        score_BC = score(slice(first, min(first + BLOCK_ROWS, history.rows))) + tie_C
        best.append(torch.from_numpy(score_BC).topk(min(PLACES, score_BC.shape[1])).indices.numpy())
    return np.concatenate(best)


class Neighbours(NamedTuple):
    """The past of each user up to a time, one row a user."""

    history: History
    user_U: np.ndarray


class TifuKnn(NamedTuple):
    """Temporal item frequencies and nearest neighbours (Hu et al. 2020, arXiv:2006.00556).

    A user's vector is a mean over groups of `group_windows` windows, newest group last; a window
    weighs `within_decay` to the power of its distance from the group's end, a group `group_decay`
    to the power of its distance from the last. A row's score is `own_share` of its own vector and
    the rest of the mean vector of its `neighbours` nearest users by Euclidean distance.
    """

    group_windows: int = 7
    within_decay: float = 0.9
    group_decay: float = 0.7
    neighbours: int = 300
    own_share: float = 0.7

    def vectors(self, history: History) -> csr_array:
        ago_E = history.windows_ago_E
        group_E, within_E = np.divmod(ago_E, self.group_windows)
        row_E = history.row_of_entries()
        # The oldest group may be smaller: its mean is over the windows that it has.
        windows_R = history.windows()
        groups_R = np.maximum(-(-windows_R // self.group_windows), 1)
        oldest_E = group_E == groups_R[row_E] - 1
        rest_R = windows_R - (groups_R - 1) * self.group_windows
        size_E = np.where(oldest_E, rest_R[row_E], self.group_windows)
        weight_E = self.within_decay**within_E * self.group_decay**group_E
        return history.matrix(weight_E / (size_E * groups_R[row_E]))

    def rank(self, history: History, user_R: np.ndarray, neighbours: Neighbours) -> np.ndarray:
        """(R, K) codes, best first. user_R: the user of each row."""
        own_RC, other_UC = self.vectors(history), self.vectors(neighbours.history)
        norm_U = other_UC.multiply(other_UC).sum(1)

        def weights_BU(own_BC: csr_array, is_own_BU: np.ndarray) -> np.ndarray:
            # The row's own norm is the same for all neighbours.
            distance_BU = norm_U - 2 * (own_BC @ other_UC.T).toarray()
            distance_BU[is_own_BU] = np.inf
            nearest = min(self.neighbours, distance_BU.shape[1] - 1)
            index_BK = np.argpartition(distance_BU, nearest - 1, axis=1)[:, :nearest]
            weight_BU = np.zeros_like(distance_BU)
            np.put_along_axis(weight_BU, index_BK, (1 - self.own_share) / nearest, axis=1)
            return weight_BU

        return _rank(
            history,
            own_RC * self.own_share,
            own_RC,
            other_UC,
            lambda block: user_R[block, None] == neighbours.user_U,
            weights_BU,
        )


class UpCf(NamedTuple):
    """User popularity and collaborative filtering (Faggioli et al. 2020).

    Recency Aware Collaborative Filtering for Next Basket Recommendation,
    doi:10.1145/3340631.3394850.

    A user's vector is the share of the last `recent_windows` windows that contain each code. The
    score is the sum over all users of their vectors times the asymmetric cosine of both users' sets
    to the power of `locality`. The user itself is among them with similarity 1.
    """

    recent_windows: int = 25
    asymmetry: float = 0.25
    locality: int = 10

    def vectors(self, history: History) -> csr_array:
        ago_E = history.windows_ago_E
        row_E = history.row_of_entries()
        windows_R = history.windows()
        size_E = np.minimum(windows_R, self.recent_windows)[row_E]
        return history.matrix(np.where(ago_E < self.recent_windows, 1 / size_E, 0.0))

    def rank(self, history: History, user_R: np.ndarray, neighbours: Neighbours) -> np.ndarray:
        """(R, K) codes, best first. user_R: the user of each row."""
        own_RC, other_UC = self.vectors(history), self.vectors(neighbours.history)
        own_set_RC, other_set_UC = _sets(history), _sets(neighbours.history)
        size_U = np.maximum(other_set_UC.sum(1), 1)

        def weights_BU(own_set_BC: csr_array, is_own_BU: np.ndarray) -> np.ndarray:
            size_B = np.maximum(own_set_BC.sum(1), 1)
            common_BU = (own_set_BC @ other_set_UC.T).toarray()
            scale_BU = size_B[:, None] ** self.asymmetry * size_U ** (1 - self.asymmetry)
            weight_BU = (common_BU / scale_BU) ** self.locality
            weight_BU[is_own_BU] = 0
            return weight_BU

        return _rank(
            history,
            own_RC,
            own_set_RC,
            other_UC,
            lambda block: user_R[block, None] == neighbours.user_U,
            weights_BU,
        )


def _sets(history: History) -> csr_array:
    sets = history.matrix(np.ones_like(history.age_days_E))
    sets.data[:] = 1
    return sets


def _rank(
    history: History,
    own_RC: csr_array,
    compared_RC: csr_array,
    other_UC: csr_array,
    is_own_RU: Callable[[slice], np.ndarray],
    weights_BU: Callable[[csr_array, np.ndarray], np.ndarray],
) -> np.ndarray:
    """(R, K) best codes of own_RC plus the neighbours' vectors, weighted by `weights_BU`.

    weights_BU: called with a block of `compared_RC` and whether a neighbour is the row's own user.
    """

    def score(block: slice) -> np.ndarray:
        weight_BU = weights_BU(compared_RC[block], is_own_RU(block))
        return weight_BU @ other_UC + own_RC[block].toarray()

    return best_of_blocks(history, score)
