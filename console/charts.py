"""Geometry of charts; templates/parts/charts.html draws it as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from console.formats import number, utc

WIDTH, HEIGHT = 640, 180
LEFT, RIGHT, TOP, BOTTOM = 52, 8, 8, 22
FINE = 0.1  # a smaller range of values needs more decimals
DATE_CHARS = 16  # of a formatted time, without seconds


def _minute(time_ms: int) -> str:
    return utc(time_ms)[:DATE_CHARS]


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
    written: Callable[[int], str] = _minute,
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

    places = [ChartPoint(x(each.time_ms), y(each.value), each.title) for each in ordered]
    banded = [each for each in ordered if each.low is not None and each.high is not None]
    edges = [(each.time_ms, each.high) for each in banded]
    edges += [(each.time_ms, each.low) for each in reversed(banded)]
    times = [(written(first_ms), x(first_ms), "start")]
    if last_ms > first_ms:
        times.append((written(last_ms), x(last_ms), "end"))
    else:
        times[0] = (times[0][0], x(first_ms), "middle")
    decimals = 2 if height > FINE else 4
    return LineChart(
        " ".join(f"{place.x},{place.y}" for place in places),
        places,
        [ChartPoint(x(each.time_ms), y(each.value), each.mark) for each in ordered if each.mark],
        " ".join(f"{x(time_ms)},{y(value)}" for time_ms, value in edges),
        [
            (number(value, decimals), y(value))
            for value in (y_min, y_min + height / 2, y_min + height)
        ],
        times,
    )


BARS_HEIGHT = 160
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
    height = BARS_HEIGHT - TOP - BOTTOM
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


CELL, HEAT_LEFT, HEAT_TOP = 20, 40, 18
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
            cells.append(HeatCell(HEAT_LEFT + CELL * hour, HEAT_TOP + CELL * day, opacity, title))
    return HeatMap(
        HEAT_LEFT + CELL * HOURS,
        HEAT_TOP + CELL * DAYS,
        cells,
        [(name, HEAT_TOP + CELL * day + 14) for day, name in enumerate(DAY_NAMES)],
        [(f"{hour:02d}", HEAT_LEFT + CELL * hour) for hour in range(0, HOURS, 3)],
        busiest,
    )


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
