"""What a model knows of items beside what happened to them: the vectors of a catalogue.

In training an item's row of the table is its own row and a projection of each of its vectors, one
linear map for each modality. At each step a share of the items loses its own row, in what was had
and in what comes next alike, so that the projections learn to stand for an item that was never seen
(Volkovs et al. 2017, DropoutNet, NeurIPS 30). Then the sums become the table: a model that serves
knows nothing of all this. The projections are kept, since they make the rows of items to come.

Shape suffixes
    I items   W width of an item's vectors, the modalities side by side   D model width
    R rows of the table
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from models.catalogue import Catalogue
from models.transformer import BehaviourTransformer


class Sides(nn.Module):
    """From own rows to sums: a parametrization of a model's table, zero at first."""

    def __init__(self, catalogue: Catalogue, items: list[str], dim: int, first_row: int):
        super().__init__()
        vectors_IW = catalogue.vectors(items)
        self.modalities = catalogue.modalities
        self.rows = slice(first_row, first_row + len(items))
        self.register_buffer("vectors_IW", torch.from_numpy(vectors_IW), persistent=False)
        self.projection = nn.Linear(vectors_IW.shape[1], dim, bias=False)
        nn.init.zeros_(self.projection.weight)
        self._some_I = vectors_IW.any(1)
        self._dropped_I1: Tensor | None = None

    @classmethod
    def attach(cls, model: BehaviourTransformer, catalogue: Catalogue, items: list[str]) -> Sides:
        """items: the model's named ones."""
        sides = cls(catalogue, items, model.shape.dim, model.shape.layout.item + 1)
        parametrize.register_parametrization(model, "table", sides)
        return sides

    def drop(self, share: float, random: np.random.Generator | None) -> None:
        """From here on such a share of the items with a vector has no row of its own; none without
        `random`."""
        self._dropped_I1 = None
        if random is not None:
            dropped_I = self._some_I & (random.random(len(self._some_I)) < share)
            self._dropped_I1 = torch.from_numpy(dropped_I[:, None]).to(self.vectors_IW.device)

    def forward(self, own_RD: Tensor) -> Tensor:
        own_ID = own_RD[self.rows]
        if self._dropped_I1 is not None:
            own_ID = own_ID.masked_fill(self._dropped_I1, 0.0)
        sum_ID = own_ID + self.projection(self.vectors_IW)
        return torch.cat([own_RD[: self.rows.start], sum_ID, own_RD[self.rows.stop :]])

    def bake(self, model: BehaviourTransformer) -> None:
        """Makes the sums the model's own rows."""
        self.drop(0.0, None)
        parametrize.remove_parametrizations(model, "table")

    def kept(self) -> dict[str, Any]:
        """What a checkpoint keeps: projections (D, width), and what they project."""
        widths = [modality.width for modality in self.modalities.values()]
        parts = self.projection.weight.detach().split(widths, 1)
        return {
            "projections": dict(zip(self.modalities, parts, strict=True)),
            "modalities": {name: one._asdict() for name, one in self.modalities.items()},
        }
