"""A radar chart: one axis for each category, one polygon for each series."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

SIZE, RADIUS = 320, 104
CENTRE = SIZE / 2
RINGS = (0.25, 0.5, 0.75, 1.0)
LABEL_DISTANCE = 1.14
MIN_AXES = 3


class RadarAxis(NamedTuple):
    label: str
    x: float
    y: float
    label_x: float
    label_y: float
    anchor: str  # of the label's text


class RadarSeries(NamedTuple):
    name: str
    style: str  # class of the polygon
    points: str
    values: list[float]  # in the order of the axes


class RadarChart(NamedTuple):
    """`largest`: the value at the end of each axis."""

    axes: list[RadarAxis]
    rings: list[str]
    series: list[RadarSeries]
    largest: float


def radar(
    axes: Sequence[str], series: Sequence[tuple[str, str, Mapping[str, float]]]
) -> RadarChart | None:
    """The chart; None with fewer than three axes or if every value is 0.

    series: name, class and values by axis; a missing value is 0. All axes have the same scale.
    """
    values = [[max(0.0, shares.get(axis, 0.0)) for axis in axes] for _, _, shares in series]
    largest = max((value for each in values for value in each), default=0.0)
    if len(axes) < MIN_AXES or not largest:
        return None
    count = len(axes)
    return RadarChart(
        [_axis(axis, number, count) for number, axis in enumerate(axes)],
        [_polygon([ring] * count) for ring in RINGS],
        [
            RadarSeries(name, style, _polygon([value / largest for value in each]), each)
            for (name, style, _), each in zip(series, values, strict=True)
        ],
        largest,
    )


def _axis(label: str, number: int, count: int) -> RadarAxis:
    x, y = _place(1.0, number, count)
    label_x, label_y = _place(LABEL_DISTANCE, number, count)
    offset = label_x - CENTRE
    anchor = "middle" if abs(offset) < 1 else "start" if offset > 0 else "end"
    return RadarAxis(label, x, y, label_x, label_y, anchor)


def _place(radius: float, number: int, count: int) -> tuple[float, float]:
    """The first axis points up, the others follow clockwise."""
    angle = 2 * math.pi * number / count
    return (
        round(CENTRE + RADIUS * radius * math.sin(angle), 1),
        round(CENTRE - RADIUS * radius * math.cos(angle), 1),
    )


def _polygon(radii: Sequence[float]) -> str:
    places = (_place(radius, number, len(radii)) for number, radius in enumerate(radii))
    return " ".join(f"{x},{y}" for x, y in places)
