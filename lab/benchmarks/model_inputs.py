"""Inputs of the model from generated events, to time it without Flink."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np

from benchmarks.load.workload import Workload
from liveprofile.events.modalities import Vectors
from liveprofile.settings import load
from liveprofile.wire.histories import Memories
from liveprofile.wire.token_columns import TokenColumns
from models.profile.recipes import Recipe
from tests.support.rows.profile_input import batch_of, batches
from udfs.profile.batch import ProfileBatch
from udfs.profile.inputs import read_inputs

MODEL_ROWS = 2_048

# The arguments of ProfileModel.score.
ModelInputs = tuple[TokenColumns, TokenColumns, np.ndarray, np.ndarray, Sequence[Vectors], Memories]


def generated_rows(workload: Workload) -> ProfileBatch:
    """The last MODEL_ROWS rows of a workload."""
    rows = [
        row
        for batch in batches(workload.messages(), load(), MODEL_ROWS)
        for row in zip(*batch, strict=True)
    ]
    return batch_of(rows[-MODEL_ROWS:])


def model_inputs(batch: ProfileBatch, decay_days: float) -> ModelInputs:
    """The inputs that the operator passes to the model; rows without a valid event are left out."""
    reads = SimpleNamespace(
        modalities=frozenset(), decay_days=decay_days, history_windows=Recipe.history_windows
    )
    found = read_inputs(batch, reads)
    numbers = found.matrix_before, found.matrix_after
    return found.histories.tokens, found.windows.tokens, *numbers, (), found.histories.memories
