"""Training curves: `curves.csv` and `curves.png` of a model checkpoint, one row per epoch."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE, FIGURE = "curves.csv", "curves.png"
VALIDATION_PREFIX = "validation_"
UNITS = {"seconds": "s", "category_ndcg_at_10": "NDCG@10", "item_ndcg_at_10": "NDCG@10"}
# Why the two curves of a panel differ even without overfitting.
NOTE = "Training uses augmented windows and sampled items, validation uses neither."


def write(folder: Path, curves: list[dict[str, float]], best_epoch: int) -> None:
    """Writes the table and the figure.

    `curves` has a row per epoch with the columns epoch, seconds and the training values; the
    column validation_X is X on validation.
    """
    with (folder / TABLE).open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(curves[0])
        writer.writerows([f"{value:.6g}" for value in row.values()] for row in curves)
    figure(curves, best_epoch).savefig(folder / FIGURE, dpi=100)


def figure(curves: list[dict[str, float]], best_epoch: int) -> Figure:
    """One panel per loss and metric, with the training and validation curves that exist."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = dict.fromkeys(name.removeprefix(VALIDATION_PREFIX) for name in curves[0])
    names = [name for name in names if name not in ("epoch", "seconds")] + ["seconds"]
    columns = math.ceil(len(names) / 2)
    plot = Figure(figsize=(3.4 * columns, 6), layout="constrained")
    FigureCanvasAgg(plot)
    axes = plot.subplots(2, columns, squeeze=False)
    epochs = [row["epoch"] for row in curves]
    for panel, name in zip(axes.flat, names, strict=False):
        for column, label in ((name, "training"), (VALIDATION_PREFIX + name, "validation")):
            if column in curves[0]:
                values = [row[column] for row in curves]
                colour = "C0" if label == "training" else "C1"
                panel.plot(epochs, values, color=colour, marker=".", label=label)
        panel.axvline(best_epoch, color="0.5", linestyle="--", label=f"best epoch ({best_epoch})")
        panel.set(title=name, xlabel="epoch", ylabel=UNITS.get(name, "nats"))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(alpha=0.3)
    for panel in axes.flat[len(names) :]:
        panel.set_axis_off()
    axes.flat[0].legend()
    plot.supxlabel(NOTE, fontsize="small")
    return plot
