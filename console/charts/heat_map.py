"""A heat map of hours by weekdays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

CELL, LEFT, TOP = 20, 40, 18
HOURS, DAYS = 24, 7
DAY_NAMES = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
FAINTEST = 0.08


class HeatCell(NamedTuple):
    x: int
    y: int
    opacity: float
    title: str


class HeatMap(NamedTuple):
    width: int
    height: int
    cells: list[HeatCell]
    rows: list[tuple[str, int]]  # label, y
    columns: list[tuple[str, int]]  # label, x
    busiest: str


def heat_map(shares: Sequence[Sequence[float]]) -> HeatMap | None:
    """shares: (7, 24), Monday first, UTC hours; sum 1. None if every share is 0."""
    largest = max((value for row in shares for value in row), default=0.0)
    if largest <= 0:
        return None
    cells, busiest = [], ""
    for day, row in enumerate(shares):
        for hour, value in enumerate(row):
            title = f"{DAY_NAMES[day]} {hour:02d}:00, {100 * value:.1f} %"
            if value == largest and not busiest:
                busiest = title
            opacity = round(FAINTEST + (1 - FAINTEST) * value / largest, 3)
            cells.append(HeatCell(LEFT + CELL * hour, TOP + CELL * day, opacity, title))
    return HeatMap(
        LEFT + CELL * HOURS,
        TOP + CELL * DAYS,
        cells,
        [(name, TOP + CELL * day + 14) for day, name in enumerate(DAY_NAMES)],
        [(f"{hour:02d}", LEFT + CELL * hour) for hour in range(0, HOURS, 3)],
        busiest,
    )
