"""What models cost and what they are worth: checkpoints, and cheaper forms of them, side by side.

Each variant's size, speed (benchmarks/models/model_speed.py) and quality (benchmarks/models/model_quality.py)
stand beside the reference's: the first checkpoint, written down plainly in float32 with every item
ranked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.load.load import Load
from benchmarks.models import model_quality, model_speed
from benchmarks.models.variant import variants
from benchmarks.support import runs
from models.profile.data.prepared import split
from models.profile.data.training_rows import read
from models.profile.recipes import Recipe


def models(
    folders: list[Path], rows_path: Path, recipe: Recipe, workload: Load, windows: int, repeats: int
) -> dict[str, Any]:
    """Every figure of every variant. Raises InputError for rows that hold no history."""
    every = variants(folders)
    runs.say(f"reading {rows_path}")
    streams = read(rows_path)
    parts = split(recipe, streams.end_ms_W)
    kinds = {
        "generated rows": model_speed.generated(workload),
        "recorded rows": model_speed.recorded(
            rows_path, parts.train_until_ms, parts.validation_until_ms
        ),
    }
    speed = model_speed.speed(folders, list(every), kinds, repeats)
    quality = model_quality.quality(every, streams, parts, recipe, windows)
    return {
        "configuration": {
            "recipe": recipe.name,
            "validation_windows": windows,
            "rows_of_a_figure": model_speed.ROWS,
            "repeats": repeats,
            "processes_and_threads": model_speed.MODES,
        },
        "variants": {
            name: {"size_bytes": one.size_bytes, "quality": quality[name], "speed": speed[name]}
            for name, one in every.items()
        },
    }


def table(found: dict[str, Any]) -> str:
    """The result for a person. Behind an x stands how many times the reference's a figure is; of
    speed, by the clock and by CPU time."""
    variants = found["variants"]
    width = max(map(len, variants))

    def line(name: str, cells: list[str]) -> str:
        return f"{name:{width}}" + "".join(f"{cell:>22}" for cell in cells)

    lines = [line("", ["MB", *model_quality.HEADS])]
    for name, one in variants.items():
        heads = [f"{head['value']:.4f} x {head['ratio']:.4f}" for head in one["quality"].values()]
        lines.append(line(name, [f"{one['size_bytes'] / 1e6:.2f}", *heads]))
    for way in next(iter(variants.values()))["speed"]:
        lines += ["", f"rows a second, {way}"]
        lines.append(line("rows of a batch", [f"{size}" for size in model_speed.SIZES]))
        for name, one in variants.items():
            figures = [
                f"{took['rows_per_s']:,} x {took['ratio']:.2f} {took['cpu_ratio']:.2f}"
                for took in one["speed"][way].values()
            ]
            lines.append(line(name, figures))
    return "\n".join(lines)
