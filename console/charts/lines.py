"""A line chart over time with a band and marks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
