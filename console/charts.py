"""Geometry of charts; templates/parts/charts.html draws it as SVG. Lengths are of its viewBox."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from console.formats import number, utc

WIDTH, HEIGHT = 640, 180
LEFT, RIGHT, TOP, BOTTOM = 52, 8, 8, 22
FINE = 0.1  # a smaller range of values needs more decimals
DATE_CHARS = 16  # of a formatted time, without seconds


class ChartPoint(NamedTuple):
    x: float
    y: float
    title: str


class LineChart(NamedTuple):
    points: str
    dots: list[ChartPoint]
    marks: list[ChartPoint]
    band: str  # polygon; "" without a band
    y_ticks: list[tuple[str, float]]
    x_ticks: list[tuple[str, float, str]]  # label, x, anchor


class Sample(NamedTuple):
    """low and high: of the band at this time, None if unknown. mark: the text of a mark, or ""."""

    time_ms: int
    value: float
    title: str = ""
    low: float | None = None
    high: float | None = None
    mark: str = ""


def line_chart(
    samples: Sequence[Sample],
    y_max: float | None = None,
    y_min: float = 0.0,
    written: Callable[[int], str] = lambda time_ms: utc(time_ms)[:DATE_CHARS],
) -> LineChart | None:
    """The chart from `y_min` to `y_max`, by default to the largest value. None without samples.

    written: the label of a time.
    """
    if not samples:
        return None
    ordered = sorted(samples, key=lambda sample: sample.time_ms)
    first_ms, last_ms = ordered[0].time_ms, ordered[-1].time_ms
    largest = y_max or max(max(each.value, each.high or 0.0) for each in ordered) or 1.0
    height = (largest - y_min) or 1.0

    def x(time_ms: int) -> float:
        share = (time_ms - first_ms) / (last_ms - first_ms) if last_ms > first_ms else 0.5
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        share = min(max((value - y_min) / height, 0.0), 1.0)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    dots = [ChartPoint(x(each.time_ms), y(each.value), each.title) for each in ordered]
    banded = [each for each in ordered if each.low is not None and each.high is not None]
    edges = [(x(each.time_ms), y(each.high)) for each in banded]
    edges += [(x(each.time_ms), y(each.low)) for each in reversed(banded)]
    ends = [(first_ms, "start"), (last_ms, "end")] if last_ms > first_ms else [(first_ms, "middle")]
    decimals = 2 if height > FINE else 4
    return LineChart(
        _points((dot.x, dot.y) for dot in dots),
        dots,
        [ChartPoint(x(each.time_ms), y(each.value), each.mark) for each in ordered if each.mark],
        _points(edges),
        [(number(y_min + height * part, decimals), y(y_min + height * part)) for part in HALVES],
        [(written(time_ms), x(time_ms), anchor) for time_ms, anchor in ends],
    )


def _points(places: Iterable[tuple[float, float]]) -> str:
    """The attribute `points` of a line or polygon."""
    return " ".join(f"{x},{y}" for x, y in places)


HALVES = (0, 0.5, 1)


HOURS, DAYS = 24, 7
DAY_NAMES = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
FAINTEST = 0.08


class HeatCell(NamedTuple):
    opacity: float
    title: str


class HeatMap(NamedTuple):
    rows: list[tuple[str, list[HeatCell]]]  # a day with its hours
    busiest: str


def heat_map(shares: Sequence[Sequence[float]]) -> HeatMap | None:
    """shares: (7, 24), Monday first, UTC hours; sum 1. None if every share is 0."""
    largest = max(map(max, shares))
    if largest <= 0:
        return None
    rows = [
        (
            name,
            [
                HeatCell(
                    round(FAINTEST + (1 - FAINTEST) * value / largest, 3),
                    f"{name} {hour:02d}:00, {100 * value:.1f} %",
                )
                for hour, value in enumerate(row)
            ],
        )
        for name, row in zip(DAY_NAMES, shares, strict=True)
    ]
    busiest = next(cell.title for _, row in rows for cell in row if cell.opacity == 1.0)
    return HeatMap(rows, busiest)


CENTRE, RADIUS = 160, 104
RINGS = (0.25, 0.5, 0.75, 1.0)
LABEL_DISTANCE = 1.14
MIN_AXES = 3


class RadarChart(NamedTuple):
    axes: list[tuple[str, tuple[float, float], tuple[float, float], str]]  # label, end, its place
    rings: list[str]
    series: list[tuple[str, str, str]]  # name, class and points of the polygon


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

    def place(radius: float, axis: int) -> tuple[float, float]:
        """The first axis points up, the others follow clockwise."""
        angle = 2 * math.pi * axis / len(axes)
        return (
            round(CENTRE + RADIUS * radius * math.sin(angle), 1),
            round(CENTRE - RADIUS * radius * math.cos(angle), 1),
        )

    def polygon(radii: Sequence[float]) -> str:
        return _points(place(radius, axis) for axis, radius in enumerate(radii))

    labels = [place(LABEL_DISTANCE, axis) for axis in range(len(axes))]
    return RadarChart(
        [
            (label, place(1.0, axis), labels[axis], _anchor(labels[axis][0] - CENTRE))
            for axis, label in enumerate(axes)
        ],
        [polygon([ring] * len(axes)) for ring in RINGS],
        [
            (name, style, polygon([value / largest for value in each]))
            for (name, style, _), each in zip(series, values, strict=True)
        ],
    )


def _anchor(offset: float) -> str:
    """Of a label so far to the right of the centre."""
    if abs(offset) < 1:
        return "middle"
    return "start" if offset > 0 else "end"
