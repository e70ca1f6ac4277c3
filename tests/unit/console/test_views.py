"""Charts and views: what a page shows, computed from rows."""

import math

from console.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Sample,
    heat_map,
    line_chart,
    radar,
)
from console.formats import facts, number, sentence, share, utc, words
from console.user_page import FIGURES, activity, figures, interests, timeline, who
from liveprofile.units import HOUR_MS
from tests.support.memory.api import NOW_MS
from tests.support.rows.api_rows import stored_flag_of
from tests.support.rows.console_rows import FEATURES, WINDOWS, known_delta
from udfs.profile.inputs import FEATURES as JOB_FEATURES


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


def test_line_chart_bounds_values_and_needs_one() -> None:
    chart = line_chart([Sample(0, 3.0, low=0.1, high=0.5)], y_max=1.0)
    assert chart.dots[0].y == TOP
    assert len(chart.band.split()) == 2
    [(_, x, anchor)] = chart.x_ticks
    assert (x, anchor) == (LEFT + (WIDTH - LEFT - RIGHT) / 2, "middle")
    assert line_chart([]) is None


def test_heat_map_has_a_cell_for_each_hour_of_the_week() -> None:
    shares = [[0.0] * 24 for _ in range(7)]
    shares[2][5] = 1.0
    chart = heat_map(shares)
    cells = [cell for _, row in chart.rows for cell in row]
    assert len(cells) == 7 * 24
    assert chart.busiest == "Wed 05:00, 100.0 %"
    assert [cell.title for cell in cells if cell.opacity == 1.0] == [chart.busiest]
    assert heat_map([[0.0] * 24] * 7) is None


def test_radar_needs_three_axes_and_a_value() -> None:
    assert radar(["a", "b"], [("x", "own", {"a": 1.0})]) is None
    assert radar(["a", "b", "c"], [("x", "own", {"a": 0.0})]) is None
    chart = radar(["a", "b", "c", "d"], [("x", "own", {"a": -1.0, "b": 2.0, "c": 1.0})])
    [(_, _, points)] = chart.series
    assert points == "160.0,160.0 264.0,160.0 160.0,212.0 160.0,160.0"


def test_formats() -> None:
    values = (1234.5, 3.0, 100, None, math.nan, -0.25)
    assert [number(each) for each in values] == ["1,234.5", "3", "100", "–", "–", "-0.25"]
    shares = [share(each) for each in (0.0, 0.004, 0.5, 1.0, None)]
    assert shares == ["0 %", "< 1 %", "50 %", "100 %", "–"]
    assert (utc(0), utc(None), words("STEP_UP")) == ("1970-01-01 00:00:00", "–", "step up")
    document = {"names": list("abcdefghij"), "at": {"x": {"y_z": True}}, "empty": {}, "n": None}
    told = ["a, b, c, d, e, f, g, h and 2 more", "true", "–"]
    assert list(facts(document)) == list(zip(("names", "at, x, y z", "n"), told, strict=True))
    assert (sentence("the user was erased"), sentence("")) == ("The user was erased.", "")


def test_sentence_names_what_is_known() -> None:
    profile = {"category_affinity": {"tea": 0.25, "coffee": 0.5, "cups": 0.004, "spoons": 0.001}}
    assert who(["loyal", "new"], FEATURES, profile) == (
        "A loyal and new customer: 23 purchases for 1,037.50; the last one 3.2 days ago; mostly"
        " coffee (50 %), tea (25 %) and cups (< 1 %); 23 % probability of no purchase within the"
        " model's horizon."
    )
    assert who([], {}, {}) == "A customer. Nothing else is known yet."
    few = {"events": 20.0, "purchases": 0.0, "recency_days": None}
    assert who([], few, {}) == "A customer: no purchase in 20 events."


def test_figures_show_what_the_last_window_changed() -> None:
    assert set(FIGURES) == set(JOB_FEATURES)
    found = figures({"churn": 0.25, "events": 7, "recency_days": None}, {"churn": 0.5})
    assert [each[1:] for each in found] == [("25 %", "50 %"), ("–", ""), ("7", "")]


def test_radar_has_the_users_categories_filled_up_with_those_of_everyone() -> None:
    everyone = {"everyone": {"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.1}}
    chart = interests({"x": 0.8, "a": 0.2}, everyone)
    assert [category for category, _ in chart.rows] == ["x", "a", "b", "c", "d"]
    assert chart.rows[1] == ("a", [0.2, 0.4])
    own, others = chart.chart.series
    assert own[2].startswith("160.0,56.0 ")  # the largest share ends at the end of its axis
    assert others[2].startswith("160.0,160.0 ")
    assert interests({}, {"everyone": {}}).chart is None
    assert interests({"only": 1.0}, {}).chart is None


def test_activity_comes_from_the_hours_and_weekdays_of_the_profile() -> None:
    profile = {"activity_hour": [1.0] + 23 * [0.0], "activity_weekday": 7 * [1 / 7]}
    assert activity(profile).busiest == "Mon 00:00, 14.3 %"
    assert activity({}) is None


def test_timeline_is_newest_first_and_marks_the_windows_of_flags() -> None:
    deltas = [known_delta(hours) for hours in range(WINDOWS)]
    flag = stored_flag_of(1)._replace(window_end_ms=NOW_MS - HOUR_MS - 60_000)
    entries, chart = timeline(deltas, [flag])
    assert [entry.level for entry in entries[:4]] == ["", "", "high", ""]
    assert entries[0].title == "2 view, 1 purchase, 20.25 spent"
    assert "interests: tea 20 % → 30 %" in entries[0].lines
    assert [mark.title for mark in chart.marks] == ["rule001"]
    assert len(chart.dots) == WINDOWS
    assert timeline([], []) == ([], None)


def test_timeline_tells_which_flags_a_correction_has_withdrawn() -> None:
    flag = stored_flag_of(1)
    marks = (None, "KEPT", "WITHDRAWN")
    entries = [timeline([], [flag._replace(correction=mark)])[0][0] for mark in marks]
    raised, kept, withdrawn = (entry.lines for entry in entries)
    assert kept == raised
    assert withdrawn[:-1] == raised and "withdrawn by a correction" in withdrawn[-1]
