"""Fuses vectors that came with a window's events into the state after the window.

Each encoder's vectors have a projection. A place (latitude and longitude) has learned rows for the
cells of two grids that contain it. Adding a projected vector to a state is the additive form of
early fusion (Baltrusaitis et al. 2019, Multimodal Machine Learning, arXiv:1705.09406). Cells share
rows by a spatial hash (Teschner et al. 2003, Optimized Spatial Hashing, VMV).

All weights are zero until models/profile/training/fit_modalities.py fits them behind the finished
trunk. A model without fitted modalities ignores such vectors.

Shape suffixes: B rows; K rows that have a vector; W width of a vector; D model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from liveprofile.events.modalities import PLACE, Modality, Vectors
from models.profile.device import to_device

CELL_DEGREES = (0.05, 1.0)  # about 5 and 100 km
CELL_ROWS = 1_024  # of each of the two grids


class ModalityRows(NamedTuple):
    """The vectors of one modality in a batch of B rows."""

    row_K: np.ndarray  # row of each vector, 0..B-1
    vector_KW: np.ndarray  # float32


ModalityInputs = dict[Modality, ModalityRows]


def collate(vectors: Sequence[Vectors]) -> ModalityInputs:
    """Groups the vectors of B windows by modality."""
    by_modality: dict[Modality, tuple[list[int], list[np.ndarray]]] = {}
    for row, window_vectors in enumerate(vectors):
        for modality, vector in window_vectors.items():
            rows, columns = by_modality.setdefault(modality, ([], []))
            rows.append(row)
            columns.append(vector)
    return {
        modality: ModalityRows(np.array(rows), np.stack(columns))
        for modality, (rows, columns) in by_modality.items()
    }


class Fusion(nn.Module):
    """Projects vectors of the given modalities to the model width; ignores other modalities."""

    def __init__(self, dim: int, modalities: Sequence[Modality] = ()):
        super().__init__()
        self.dim, self.modalities = dim, tuple(modalities)
        heights = [len(CELL_DEGREES) * CELL_ROWS if m == PLACE else m.numbers for m in modalities]
        self.weights = nn.ParameterList(torch.zeros(height, dim) for height in heights)

    def forward(self, inputs: ModalityInputs, rows: int) -> Tensor:
        """(B, D) to add to the states after B windows; zeros for windows without vectors."""
        weight = self.weights[0] if len(self.weights) else torch.zeros(0)
        fused_BD = weight.new_zeros(rows, self.dim)
        for modality, weight_WD in zip(self.modalities, self.weights, strict=True):
            if modality not in inputs:
                continue
            row_K, vector_KW = inputs[modality]
            if modality == PLACE:
                cell_K2 = to_device(grid_cells(vector_KW), weight_WD.device)
                projected_KD = weight_WD[cell_K2].sum(1)
            else:
                projected_KD = (
                    to_device(vector_KW, weight_WD.device).to(weight_WD.dtype) @ weight_WD
                )
            row_index_K = to_device(row_K, weight_WD.device)
            fused_BD = fused_BD.index_add(0, row_index_K, projected_KD)
        return fused_BD


def grid_cells(place_K2: np.ndarray) -> np.ndarray:
    """(K, 2) int64: the weight row of a place's cell in each of the two grids.

    place_K2: latitude and longitude in degrees.
    """
    rows = []
    for grid, degrees in enumerate(CELL_DEGREES):
        lat_K, lon_K = np.floor(place_K2.astype(np.float64) / degrees).astype(np.int64).T
        rows.append(grid * CELL_ROWS + ((lat_K * 73_856_093) ^ (lon_K * 19_349_663)) % CELL_ROWS)
    return np.stack(rows, axis=1)
