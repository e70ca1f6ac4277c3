"""What a window brings beside tokens, added to the state after it: a projection for each encoder's
vectors, and learned rows for the cells of a grid in which the place lies.

All weights are zero until models/profile/training/fit_modalities.py fits them behind the finished trunk, so a model without
them says what it always said. Adding a projected vector to a state is the additive form of early
fusion (Baltrusaitis et al. 2019, Multimodal Machine Learning, arXiv:1705.09406). Cells share rows
by a spatial hash (Teschner et al. 2003, Optimized Spatial Hashing, VMV).

Shape suffixes: B rows; K of them that have a vector; W numbers of a vector; D model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from liveprofile.events.modalities import PLACE, Modality, Vectors

CELL_DEGREES = (0.05, 1.0)  # some 5 and 100 km
CELL_ROWS = 1_024  # of each of the two grids


class Rows(NamedTuple):
    """The vectors of one modality among B rows."""

    row_K: np.ndarray
    vector_KW: np.ndarray  # float32


Beside = dict[Modality, Rows]


def gather(vectors: Sequence[Vectors]) -> Beside:
    """Of B windows."""
    found: dict[Modality, tuple[list[int], list[np.ndarray]]] = {}
    for row, one in enumerate(vectors):
        for modality, vector in one.items():
            rows, columns = found.setdefault(modality, ([], []))
            rows.append(row)
            columns.append(vector)
    return {
        modality: Rows(np.array(rows), np.stack(columns))
        for modality, (rows, columns) in found.items()
    }


class Fusion(nn.Module):
    """Knows these modalities, and of others nothing."""

    def __init__(self, dim: int, modalities: Sequence[Modality] = ()):
        super().__init__()
        self.dim, self.modalities = dim, tuple(modalities)
        heights = [len(CELL_DEGREES) * CELL_ROWS if m == PLACE else m.numbers for m in modalities]
        self.weights = nn.ParameterList(torch.zeros(height, dim) for height in heights)

    def forward(self, beside: Beside, rows: int) -> Tensor:
        """(B, D) to add to the states after B windows; zeros where there is nothing."""
        weight = self.weights[0] if len(self.weights) else torch.zeros(0)
        fused_BD = weight.new_zeros(rows, self.dim)
        for modality, weight_WD in zip(self.modalities, self.weights, strict=True):
            if modality not in beside:
                continue
            row_K, vector_KW = beside[modality]
            if modality == PLACE:
                place_K2 = torch.from_numpy(cells(vector_KW)).to(weight_WD.device)
                one_KD = weight_WD[place_K2].sum(1)
            else:
                one_KD = torch.from_numpy(vector_KW).to(weight_WD) @ weight_WD
            fused_BD = fused_BD.index_add(0, torch.from_numpy(row_K).to(weight_WD.device), one_KD)
        return fused_BD


def cells(place_K2: np.ndarray) -> np.ndarray:
    """(K, 2) int64: rows of latitudes' and longitudes' cells in either grid."""
    found = []
    for grid, degrees in enumerate(CELL_DEGREES):
        lat_K, lon_K = np.floor(place_K2.astype(np.float64) / degrees).astype(np.int64).T
        found.append(grid * CELL_ROWS + ((lat_K * 73_856_093) ^ (lon_K * 19_349_663)) % CELL_ROWS)
    return np.stack(found, axis=1)
