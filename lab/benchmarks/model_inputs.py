"""Inputs of the model from generated events, to time it without Flink."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.load.workload import Workload
from lab.benchmarks.rows import batch_of, batches
from liveprofile.events.modalities import Vectors
from liveprofile.events.window import parse_windows
from liveprofile.settings import load
from liveprofile.wire.histories import Memories, read_histories
from liveprofile.wire.token_columns import TokenColumns
from models.profile.recipes import Recipe
from udfs.profile import assemble
from udfs.profile.batch import ProfileBatch

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
    windows, kept, _ = parse_windows(batch.events)
    start_ms, end_ms = batch.window_start_ms[kept], batch.window_end_ms[kept]
    baselines = assemble.read_baselines(
        batch.added[kept], batch.sums[kept], start_ms, end_ms, decay_days
    )
    texts, purchases = (
        [column[row] for row in kept] for column in (batch.history, batch.purchases)
    )
    histories = read_histories(texts, purchases, start_ms, Recipe.history_windows)
    users = [batch.user_id[row] for row in kept]
    rows = assemble.ProfileInputs(users, start_ms, end_ms, windows, histories, *baselines)
    numbers = assemble.numeric_inputs(rows)
    return histories.tokens, windows.tokens, *numbers, (), histories.memories
