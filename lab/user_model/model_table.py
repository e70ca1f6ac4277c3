"""Compares the cost and the quality of model checkpoints and of compressed forms of them.

A variant has a size, a speed (lab/user_model/model_speed.py) and a quality
(lab/user_model/model_quality.py), each compared with the reference: the first checkpoint, served
by the plain implementation in float32 with every item ranked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.load.workload import Workload
from benchmarks.support import runs
from lab.benchmarks.model_inputs import MODEL_ROWS, generated_rows
from lab.user_model import model_quality, model_speed
from lab.user_model.variant import variants
from models.profile.data.prepared import split_by_time
from models.profile.data.training_rows import read
from models.profile.recipes import Recipe


def models(
    folders: list[Path],
    rows_path: Path,
    recipe: Recipe,
    workload: Workload,
    windows: int,
    repeats: int,
) -> dict[str, Any]:
    """Measures all variants. Raises InputError for rows without the columns of a backfill."""
    all_variants = variants(folders)
    runs.log_progress(f"reading {rows_path}")
    streams = read(rows_path)
    parts = split_by_time(recipe, streams.end_ms_W)
    kinds = {
        "generated rows": generated_rows(workload),
        "recorded rows": model_speed.recorded_rows(
            rows_path, parts.train_until_ms, parts.validation_until_ms
        ),
    }
    speed = model_speed.speed(folders, list(all_variants), kinds, repeats)
    quality = model_quality.quality(all_variants, streams, parts, recipe, windows)
    return {
        "configuration": {
            "recipe": recipe.name,
            "validation_windows": windows,
            "rows_per_measurement": MODEL_ROWS,
            "repeats": repeats,
            "processes_and_threads": model_speed.MODES,
        },
        "variants": {
            name: {"size_bytes": variant.size_bytes, "quality": quality[name], "speed": speed[name]}
            for name, variant in all_variants.items()
        },
    }


def table(result: dict[str, Any]) -> str:
    """Formats the result as a table.

    The number after an x is the ratio to the reference; for speed, by wall-clock and by CPU time.
    """
    variants = result["variants"]
    width = max(map(len, variants))

    def line(name: str, cells: list[str]) -> str:
        return f"{name:{width}}" + "".join(f"{cell:>22}" for cell in cells)

    lines = [line("", ["MB", *model_quality.HEADS])]
    for name, variant in variants.items():
        heads = [
            f"{head['value']:.4f} x {head['ratio']:.4f}" for head in variant["quality"].values()
        ]
        lines.append(line(name, [f"{variant['size_bytes'] / 1e6:.2f}", *heads]))
    for mode_and_kind in next(iter(variants.values()))["speed"]:
        lines += ["", f"rows per second, {mode_and_kind}"]
        lines.append(line("rows per batch", [f"{size}" for size in model_speed.SIZES]))
        for name, variant in variants.items():
            cells = [
                f"{timing['rows_per_s']:,} x {timing['ratio']:.2f} {timing['cpu_ratio']:.2f}"
                for timing in variant["speed"][mode_and_kind].values()
            ]
            lines.append(line(name, cells))
    return "\n".join(lines)
