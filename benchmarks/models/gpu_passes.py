"""Times the user model on a GPU: batches of a few sizes, with and without CUDA graphs.

The variants alternate. The clock is read when the GPU has finished.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.load.workload import Workload
from benchmarks.models.model_speed import ModelInputs, generated_rows, model_inputs
from benchmarks.support import runs
from models.profile.inference import ProfileModel
from udfs.profile.batch import ProfileBatch

NOT_MEASURED = "not measured: no CUDA GPU"
BATCH_ROWS = (1, 64, 512)
BATCHES = 20  # scored per measurement
# How many of ModelInputs are passed: without memories neither ranker nor value curves run.
PART_INPUTS = {"passes": 5, "whole": 6}


def gpu_passes(checkpoint: Path, workload: Workload, repeats: int) -> dict[str, Any]:
    """Milliseconds per batch: see `time_variants`. Without a GPU: that nothing was measured."""
    if not torch.cuda.is_available():
        runs.log_progress(NOT_MEASURED)
        return {"result": NOT_MEASURED}
    models = {
        name: ProfileModel.load(checkpoint, device="cuda", cuda_graphs=graphs)
        for name, graphs in (("eager", False), ("graphs", True))
    }
    for model in models.values():
        model.warm_up()
    rows = generated_rows(workload)
    return {
        "gpu": torch.cuda.get_device_name(),
        "graphs_captured": models["graphs"].has_graphs,
        "ms_per_batch": time_variants(models, rows, repeats, torch.cuda.synchronize),
        "gpu_memory_bytes": torch.cuda.max_memory_reserved(),
    }


def time_variants(
    models: dict[str, ProfileModel],
    rows: ProfileBatch,
    repeats: int,
    synchronize: Callable[[], None],
) -> dict[str, dict[str, dict[int, float]]]:
    """Medians over the repeats, by variant, part and rows of a batch.

    Parts: `passes` is encoding, trunk and heads, `whole` has the ranker and the value curves too.
    Sizes of which the rows make no batch are left out.
    """
    decay_days = next(iter(models.values())).decay_days
    result: dict[str, dict[str, dict[int, float]]] = {
        name: {part: {} for part in PART_INPUTS} for name in models
    }
    for size in BATCH_ROWS:
        if not (batches := _batches(rows, size, decay_days)):
            continue
        runs.log_progress(f"timing batches of {size} rows")
        times_ms: dict[tuple[str, str], list[float]] = {}
        for _ in range(repeats):
            for name, part in product(models, PART_INPUTS):
                inputs = [batch[: PART_INPUTS[part]] for batch in batches]
                synchronize()
                started_s = time.perf_counter()
                for each in inputs:
                    models[name].score(*each)
                synchronize()
                spent_ms = 1000 * (time.perf_counter() - started_s)
                times_ms.setdefault((name, part), []).append(spent_ms / len(batches))
        for (name, part), each_ms in times_ms.items():
            result[name][part][size] = round(statistics.median(each_ms), 3)
    return result


def _batches(rows: ProfileBatch, size: int, decay_days: float) -> list[ModelInputs]:
    count = min(BATCHES, len(rows.user_id) // size)
    parts = (rows.take(range(first, first + size)) for first in range(0, count * size, size))
    return [model_inputs(part, decay_days) for part in parts]
