"""`benchmarks gpu`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.load.workload import Workload
from benchmarks.support.command_line import Events, Users, report


def gpu(
    checkpoint: Annotated[Path, typer.Option(help="Model checkpoint folder.")] = Path(
        "models/checkpoints/default"
    ),
    events: Events = 50_000,
    users: Users = 5_000,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of timing.")] = 5,
) -> None:
    """Measure the user model on a GPU, with and without CUDA graphs: ms per batch."""
    from benchmarks.models.gpu_passes import gpu_passes

    workload = Workload.of(events, users)
    report("gpu", workload, lambda: gpu_passes(checkpoint, workload, repeats))
