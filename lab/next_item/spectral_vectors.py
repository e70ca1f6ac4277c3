"""Item vectors from co-occurrence counts, from which a training starts.

Apart from the counts, because a loaded model needs no scikit-learn.

Shape suffixes: I items, C singular vectors.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse
from sklearn.utils.extmath import randomized_svd


def spectral_vectors(near_II: scipy.sparse.csr_matrix, dim: int, seed: int) -> np.ndarray:
    """(I, dim) float32: singular vectors of the symmetric part of near_II, by descending value.

    Each is scaled by the root of its singular value (Levy and Goldberg 2014, Neural Word Embedding
    as Implicit Matrix Factorization). Items without neighbours get zeros, and so do the last
    columns if there are fewer than `dim` items.
    """
    symmetric_II = ((near_II + near_II.T) / 2).tocsr()
    components = min(dim, near_II.shape[0])
    left_IC, value_C, _ = randomized_svd(symmetric_II, components, n_iter=4, random_state=seed)
    vectors_ID = np.zeros((near_II.shape[0], dim), np.float32)
    vectors_ID[:, :components] = left_IC * np.sqrt(value_C)
    vectors_ID[np.diff(symmetric_II.indptr) == 0] = 0.0
    return vectors_ID
