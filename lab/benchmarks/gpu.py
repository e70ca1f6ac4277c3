"""Times the user model on a GPU, by batch size. The clock is read when the GPU has finished."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.load.workload import Workload
from benchmarks.support.report import Events, Users, report
from lab.benchmarks.model_inputs import generated_rows, model_inputs
from models.profile.inference import ProfileModel
from udfs.profile.batch import ProfileBatch

NOT_MEASURED = "not measured: no CUDA GPU"
BATCH_ROWS = (1, 64, 512)
BATCHES = 20  # scored per measurement


def gpu(
    checkpoint: Path = Path("models/checkpoints/default"),
    events: Events = 50_000,
    users: Users = 5_000,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Measure the user model on a GPU: ms per batch.

    Options:
    checkpoint: Model checkpoint folder.
    repeats: Rounds of timing.
    """
    workload = Workload.of(events, users)
    report("gpu", workload, lambda: measure_gpu(checkpoint, workload, repeats))


def measure_gpu(checkpoint: Path, workload: Workload, repeats: int) -> dict[str, Any]:
    """Milliseconds per batch: see `time_batches`. Without a GPU: that nothing was measured."""
    if not torch.cuda.is_available():
        return {"result": NOT_MEASURED}
    model = ProfileModel.load(checkpoint, device="cuda")
    model.warm_up()
    rows = generated_rows(workload)
    return {
        "gpu": torch.cuda.get_device_name(),
        "ms_per_batch": time_batches(model, rows, repeats, torch.cuda.synchronize),
        "gpu_memory_bytes": torch.cuda.max_memory_reserved(),
    }


def time_batches(
    model: ProfileModel, rows: ProfileBatch, repeats: int, synchronize: Callable[[], None]
) -> dict[int, float]:
    """Medians over the repeats, by rows of a batch. Sizes without a batch are left out."""
    times_ms: dict[int, list[float]] = {}
    for size in BATCH_ROWS:
        firsts = range(0, min(BATCHES, len(rows.user_id) // size) * size, size)
        parts = (rows.take(range(first, first + size)) for first in firsts)
        batches = [model_inputs(part, model.decay_days) for part in parts]
        for _ in range(repeats if batches else 0):
            synchronize()
            started_s = time.perf_counter()
            for each in batches:
                model.score(*each)
            synchronize()
            spent_ms = 1000 * (time.perf_counter() - started_s)
            times_ms.setdefault(size, []).append(spent_ms / len(batches))
    return {size: round(statistics.median(each), 3) for size, each in times_ms.items()}
