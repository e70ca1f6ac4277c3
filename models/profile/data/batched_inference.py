"""Runs the trunk over windows of a corpus in small batches, with the inputs that serving uses.

Shape suffixes: B windows of a batch; P flat positions; D model width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.profile.data.examples import (
    Corpus,
    Sequences,
    TrainingBatch,
    build_batch,
    slice_sequences,
)
from models.profile.network import BehaviourTransformer
from models.profile.recipes import Recipe

BATCH_ROWS = 100  # small, since callers may rank all items for each event of a batch


class TrunkOutput(NamedTuple):
    """The windows of one batch, their inputs and the trunk's states."""

    windows: np.ndarray  # (B,) indexes into the corpus
    sequences: Sequences
    batch: TrainingBatch
    h_PD: Tensor

    def last_states(self) -> Tensor:
        """(B, D) states after the last event of each window."""
        batch = self.batch
        last_B = np.searchsorted(
            batch.flat_position_N, batch.length * np.arange(1, len(self.windows) + 1)
        )
        return self.h_PD[torch.from_numpy(batch.flat_position_N[last_B - 1])]


def run_trunk(
    model: BehaviourTransformer, corpus: Corpus, windows: np.ndarray, recipe: Recipe
) -> Iterator[TrunkOutput]:
    """Yields the trunk's output for `windows`, in inference mode on the CPU."""
    with torch.inference_mode():
        for first in range(0, len(windows), BATCH_ROWS):
            part = windows[first : first + BATCH_ROWS]
            history_B = np.full(len(part), recipe.history_windows)
            sequences = slice_sequences(corpus, part, history_B, recipe.max_len)
            batch = build_batch(corpus, sequences, model.shape.layout, recipe.decay_days)
            groups = [(0, sequences.rows, batch.length)]
            h_PD = model.trunk(torch.from_numpy(batch.embedding_rows_P7), groups)
            yield TrunkOutput(part, sequences, batch, h_PD)
