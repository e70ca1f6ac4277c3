"""Next baskets by similar items (Sarwar et al. 2001, doi:10.1145/371920.372071).

Shape suffixes: R rows, C codes, W reference windows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array, diags_array

from lab.baselines.basket_history import History
from lab.baselines.neighbours import best_of_blocks
from models.profile.encoding import concatenated_ranges
from models.profile.evaluation.next_basket import Baskets


class ItemKnn(NamedTuple):
    """Sum over the user's codes, decayed by age, of their cosines with each code.

    A code keeps its `neighbours` nearest codes. Its similarity with itself counts `self_weight`: 0
    in the published method, which recommends what is new.
    """

    neighbours: int = 50
    half_life_days: float = 60.0
    self_weight: float = 1.0

    def rank(self, history: History, cosine_CC: csr_array) -> np.ndarray:
        """(R, K) codes, best first. cosine_CC: of `cosines`."""
        past_RC = history.matrix(np.exp2(-history.age_days_E / self.half_life_days))
        nearest_CC = _largest(cosine_CC, self.neighbours)
        return best_of_blocks(
            history,
            lambda block: (
                past_RC[block] @ nearest_CC + past_RC[block] * self.self_weight
            ).toarray(),
        )


def cosines(baskets: Baskets, windows: np.ndarray) -> csr_array:
    """(C, C) cosines of the windows of each two codes, without the diagonal."""
    first_W, end_W = baskets.first_W[windows], baskets.first_W[windows + 1]
    code_L = baskets.code_L[concatenated_ranges(first_W, end_W)]
    index = np.concatenate([[0], np.cumsum(end_W - first_W)])
    sets_WC = csr_array(
        (np.ones(len(code_L), np.float32), code_L, index), shape=(len(windows), baskets.codes)
    )
    norm_C = np.sqrt(np.maximum(sets_WC.sum(0), 1))
    sets_WC = sets_WC @ diags_array(1 / norm_C)
    cosine_CC = csr_array(sets_WC.T @ sets_WC)
    cosine_CC.setdiag(0)
    cosine_CC.eliminate_zeros()
    return cosine_CC


def _largest(matrix: csr_array, count: int) -> csr_array:
    """The `count` largest values of each row."""
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.argsort(row - 0.5 * matrix.data.astype(np.float64), kind="stable")
    order = order[np.arange(len(row)) - matrix.indptr[row] < count]
    return csr_array((matrix.data[order], (row[order], matrix.indices[order])), matrix.shape)
