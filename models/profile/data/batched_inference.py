"""The trunk over windows of a corpus, as it would see them when serving, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.profile.data.examples import Corpus, Examples, Segments, cut, examples
from models.profile.network import BehaviourTransformer
from models.profile.recipes import Recipe

ROWS = 100  # of one pass, which may rank all items for each of their events


class Pass(NamedTuple):
    """Some windows, their examples and the trunk's states h_PD."""

    windows: np.ndarray
    segments: Segments
    examples: Examples
    h_PD: Tensor

    def ends(self) -> Tensor:
        """(B, D) states after each window."""
        batch = self.examples
        last_B = np.searchsorted(batch.place_N, batch.length * np.arange(1, len(self.windows) + 1))
        return self.h_PD[torch.from_numpy(batch.place_N[last_B - 1])]


def passes(
    model: BehaviourTransformer, corpus: Corpus, windows: np.ndarray, recipe: Recipe
) -> Iterator[Pass]:
    """In inference mode, on the CPU."""
    with torch.inference_mode():
        for first in range(0, len(windows), ROWS):
            part = windows[first : first + ROWS]
            history_B = np.full(len(part), recipe.history_windows)
            segments = cut(corpus, part, history_B, recipe.max_len)
            batch = examples(corpus, segments, model.shape.layout, recipe.decay_days)
            groups = [(0, segments.rows, batch.length)]
            h_PD = model.trunk(torch.from_numpy(batch.features_P7), groups)
            yield Pass(part, segments, batch, h_PD)
