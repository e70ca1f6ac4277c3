"""Geometry of charts, and how numbers are written."""

from __future__ import annotations

import math

import pytest

from console.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Sample,
    bar_chart,
    heat_map,
    line_chart,
    radar,
)
from console.formats import listed, number, share, utc, words


def test_line_chart_spans_its_area() -> None:
    samples = [Sample(1_000, 10.0), Sample(0, 0.0), Sample(500, 5.0, mark="flag")]
    chart = line_chart(samples)
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    assert chart.points == (
        f"{LEFT:.1f},{bottom:.1f} {(LEFT + right) / 2:.1f},{(TOP + bottom) / 2:.1f}"
        f" {right:.1f},{TOP:.1f}"
    )
    assert [mark.title for mark in chart.marks] == ["flag"]
    assert chart.band == ""
    assert [label for label, _ in chart.y_ticks] == ["0", "5", "10"]


def test_line_chart_bounds_values_and_has_one_band() -> None:
    chart = line_chart([Sample(0, 3.0, low=0.1, high=0.5), Sample(1, 0.2)], y_max=1.0)
    assert chart.dots[0].y == TOP
    assert len(chart.band.split()) == 2


def test_line_chart_of_one_or_no_value() -> None:
    [(_, x, anchor)] = line_chart([Sample(0, 0.0)]).x_ticks
    assert (x, anchor) == (LEFT + (WIDTH - LEFT - RIGHT) / 2, "middle")
    assert line_chart([]) is None


def test_heat_map_has_a_cell_for_each_hour_of_the_week() -> None:
    shares = [[0.0] * 24 for _ in range(7)]
    shares[2][5] = 1.0
    chart = heat_map(shares)
    assert len(chart.cells) == 7 * 24
    assert chart.busiest == "Wed 05:00, 100.0 %"
    assert [cell.title for cell in chart.cells if cell.opacity == 1.0] == [chart.busiest]
    assert heat_map([[0.0] * 24] * 7) is None


def test_radar_needs_three_axes_and_a_value() -> None:
    assert radar(["a", "b"], [("x", "own", {"a": 1.0})]) is None
    assert radar(["a", "b", "c"], [("x", "own", {"a": 0.0})]) is None
    chart = radar(["a", "b", "c"], [("x", "own", {"a": -1.0, "b": 2.0})])
    assert chart.series[0].values == [0.0, 2.0, 0.0]
    assert chart.largest == 2.0


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1,234.5"), (3.0, "3"), (100, "100"), (None, "–"), (math.nan, "–"), (-0.25, "-0.25")],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_other_formats() -> None:
    assert number(1_000_000, 0) == "1,000,000"
    assert [share(each) for each in (0.0, 0.004, 0.5, 1.0, None)] == [
        "0 %",
        "< 1 %",
        "50 %",
        "100 %",
        "–",
    ]
    assert (utc(0), utc(None)) == ("1970-01-01 00:00:00", "–")
    assert words("STEP_UP") == "step up"
    assert [listed(each) for each in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


def test_bars_of_two_series_stand_side_by_side() -> None:
    chart = bar_chart(["mon", "tue"], [("now", [2.0, 0.0]), ("edited", [1.0, 4.0])])
    first, second, third, fourth = chart.bars
    assert [bar.style for bar in chart.bars] == ["own", "own", "other", "other"]
    assert first.x + first.width == pytest.approx(third.x, abs=0.1)
    assert (second.height, fourth.y) == (0.0, 8.0)
    assert first.height == pytest.approx(2 * third.height, abs=0.1)
    assert fourth.title == "tue, edited: 4"
    assert [label for label, _ in chart.y_ticks] == ["0", "2", "4"]
    assert bar_chart([], []).bars == []
