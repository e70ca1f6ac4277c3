"""A bar chart of one or two series over the same labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from console.formats import number

WIDTH, HEIGHT = 640, 160
LEFT, RIGHT, TOP, BOTTOM = 52, 8, 8, 22
GAP = 0.25  # of the width of a label's place
MAX_LABELS = 8


class Bar(NamedTuple):
    x: float
    y: float
    width: float
    height: float
    title: str
    style: str  # own, or other for the second series


class BarChart(NamedTuple):
    bars: list[Bar]
    y_ticks: list[tuple[str, float]]
    x_ticks: list[tuple[str, float]]


def bar_chart(labels: Sequence[str], series: Sequence[tuple[str, Sequence[float]]]) -> BarChart:
    """series: a name and a value, 0 or more, for each label."""
    largest = max((value for _, values in series for value in values), default=0.0) or 1.0
    height = HEIGHT - TOP - BOTTOM
    place = (WIDTH - LEFT - RIGHT) / max(len(labels), 1)
    width = place * (1 - GAP) / max(len(series), 1)
    bars = [
        Bar(
            round(LEFT + index * place + place * GAP / 2 + order * width, 1),
            round(TOP + height * (1 - value / largest), 1),
            round(width, 1),
            round(height * value / largest, 1),
            f"{label}, {name}: {number(value)}",
            "other" if order else "own",
        )
        for order, (name, values) in enumerate(series)
        for index, (label, value) in enumerate(zip(labels, values, strict=True))
    ]
    step = -(-len(labels) // MAX_LABELS) or 1
    return BarChart(
        bars,
        [(number(part * largest), round(TOP + height * (1 - part), 1)) for part in (0, 0.5, 1)],
        [
            (label, round(LEFT + (index + 0.5) * place, 1))
            for index, label in enumerate(labels)
            if index % step == 0
        ],
    )
