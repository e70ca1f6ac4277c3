"""Charts and views: what a page shows, computed from rows."""

from __future__ import annotations

import math
from typing import Any

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
from console.formats import listed, number, sentence, share, utc, words
from console.routes.users import SHOWN_EVENTS, Value, explained_values
from console.user_page import (
    KINDS,
    activity,
    figures,
    interests,
    mean_affinity,
    timeline,
    who,
)
from liveprofile.client.analysis_models import Explanation
from liveprofile.units import HOUR_MS
from tests.support.memory.api import NOW_MS
from tests.support.memory.explainer import EVENTS, NAMES, explanation
from tests.support.rows.api_rows import stored_flag_of
from tests.support.rows.console_rows import FEATURES, WINDOWS, known_delta, known_profile
from udfs.profile.assemble import FEATURES as JOB_FEATURES


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


END_MS = 1_511_658_300_000


def values_of(**changed: Any) -> list[Value]:
    found = Explanation.model_validate(explanation("u", END_MS, **changed))
    return explained_values(found)


def event(**changed: Any) -> dict[str, Any]:
    return dict(zip(NAMES, EVENTS[2], strict=True)) | {"time_ms": END_MS} | changed


def test_events_are_in_order_of_effect_with_a_sentence_each() -> None:
    churn, spend, interests = values_of()
    assert churn.summary == "28 % before the window, 23 % after it."
    assert churn.sentences == [
        "Without this purchase of espresso (coffee, 12.5, 01:04:59), the risk of churn would be 4"
        " points higher.",
        "Without this view of <i>9</i> (tea, 01:04:59), the risk of churn would be 0.2 points"
        " lower.",
    ]
    assert churn.rest == "Of the other events, 2 have no effect."
    assert [each.rpartition(", ")[2] for each in spend.sentences] == [
        "the expected spend would be 3.5 lower.",
        "the expected spend would be 0.25 higher.",
    ]
    assert interests.summary == "Largest after the window: coffee (50 %)."
    assert interests.sentences[0].endswith("the share of coffee would be 20 % instead of 50 %.")
    assert "Without this view" in interests.sentences[1]


def test_small_effects_are_not_told_as_nothing() -> None:
    effects = [
        event(event_type="cart", churn=0.0004, expected_spend=-0.001, interests=1e-6),
        event(event_type="login", churn=-0.01),
    ]
    churn, spend, interests = values_of(effects=effects, events=2)
    assert churn.sentences == [
        "Without this login (01:05:00), the risk of churn would be 1 point higher.",
        "Without this addition to the cart (01:05:00), the risk of churn would be less than 0.1"
        " points lower.",
    ]
    assert spend.sentences[0].endswith("would be less than 0.01 higher.")
    assert interests.sentences[0].endswith("shares would differ by less than 1 %.")


def test_window_without_effects_and_without_interests() -> None:
    stored = {"churn": 0.5, "expected_spend": 1.0, "interests": {}}
    before = {"churn": None, "expected_spend": None}
    churn, _, interests = values_of(effects=[event()], events=1, stored=stored, before=before)
    assert (churn.sentences, churn.rest) == ([], "No event of the window changes this value.")
    assert churn.summary == "– before the window, 50 % after it."
    assert "does not allow recommendations" in interests.summary


def test_large_window_says_what_it_leaves_out() -> None:
    effects = [event(churn=number / 1_000) for number in range(1, 31)]
    found = Explanation.model_validate(explanation("u", END_MS, effects=effects, events=700))
    churn, *_ = explained_values(found)
    assert len(churn.sentences) == SHOWN_EVENTS
    assert churn.rest == "Of the other events, 20 have a smaller effect."


def test_error_becomes_a_sentence() -> None:
    assert sentence("the user was erased") == "The user was erased."
    assert sentence("") == ""


def test_sentence_names_what_is_known() -> None:
    profile = {
        "category_affinity": {"tea": 0.25, "coffee": 0.5, "cups": 0.004, "spoons": 0.001},
        "activity_hour": [0.3, 0.2] + [0.0] * 21 + [0.2],
        "activity_weekday": [0.0] * 6 + [1.0],
    }
    assert who(["loyal", "new"], FEATURES, profile) == (
        "A loyal and new customer: 23 purchases for 1,037.50, usually 45.10 in a window with a"
        " purchase; the last one 3.2 days ago; mostly coffee (50 %), tea (25 %) and cups (< 1 %);"
        " most active on Sundays and around 00:30 UTC; 23 % probability of no purchase within the"
        " model's horizon, expected spend 60.00."
    )


def test_sentence_leaves_out_what_is_not_known() -> None:
    assert who([], {}, {}) == "A customer. Nothing else is known yet."
    features = {"events": 20.0, "purchases": 0.0, "recency_days": None, "churn": 0.9}
    assert who([], features, {"activity_hour": [0.0] * 24, "activity_weekday": [0.0] * 7}) == (
        "A customer: no purchase in 20 events; 90 % probability of no purchase within the model's"
        " horizon."
    )


def test_every_feature_of_the_job_is_explained() -> None:
    assert set(KINDS) == set(JOB_FEATURES)
    assert all(explanation.endswith(".") for _, _, explanation in KINDS.values())


def test_figures_show_what_the_last_window_changed() -> None:
    found = figures({"churn": 0.25, "events": 7}, {"churn": 0.5})
    assert [each[:3] for each in found] == [
        ("probability of no purchase", "25 %", "50 %"),
        ("events", "7", ""),
    ]


def test_unknown_figure_is_a_dash() -> None:
    [figure] = figures({"recency_days": None}, {})
    assert figure[1] == "–"


def test_mean_of_shares_counts_users_with_any() -> None:
    rows = [known_profile(), known_profile("b"), known_profile("c")._replace(profile="{}")]
    assert mean_affinity(rows)["coffee"] == pytest.approx(0.5)
    assert mean_affinity([]) == {}


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


def test_activity_counts_events_of_short_windows_at_their_hour() -> None:
    chart, source = activity([known_delta(0), known_delta(1)], {})
    full = [cell for _, row in chart.rows for cell in row if cell.opacity > 0.5]
    assert [cell.title for cell in full] == ["Sun 00:00, 50.0 %", "Sat 23:00, 50.0 %"][::-1]
    assert source == "events of 2 stored windows"


def test_activity_of_long_windows_comes_from_the_profile() -> None:
    day = known_delta(0)._replace(window_start_ms=NOW_MS - 24 * HOUR_MS)
    profile = {"activity_hour": [1.0] + 23 * [0.0], "activity_weekday": 7 * [1 / 7]}
    chart, source = activity([day], profile)
    assert "independent" in source
    assert chart.busiest == "Mon 00:00, 14.3 %"
    assert activity([day], {}) == (None, "")


def test_timeline_is_newest_first_and_marks_the_windows_of_flags() -> None:
    deltas = [known_delta(hours) for hours in range(WINDOWS)]
    flag = stored_flag_of(1)._replace(window_end_ms=NOW_MS - HOUR_MS - 60_000)
    entries, chart = timeline(deltas, [flag])
    assert [entry.level for entry in entries[:4]] == ["", "", "high", ""]
    assert entries[0].title == "2 view, 1 purchase, 20.25 spent"
    assert "interests: tea 20 % → 30 %" in entries[0].lines
    assert [mark.title for mark in chart.marks] == ["rule001"]
    assert len(chart.dots) == WINDOWS


def test_timeline_tells_which_flags_a_correction_has_withdrawn() -> None:
    flag = stored_flag_of(1)
    marks = (None, "KEPT", "WITHDRAWN")
    entries = [timeline([], [flag._replace(correction=mark)])[0][0] for mark in marks]
    raised, kept, withdrawn = (entry.lines for entry in entries)
    assert kept == raised
    assert withdrawn[:-1] == raised and "withdrawn by a correction" in withdrawn[-1]


def test_timeline_of_nothing_is_empty() -> None:
    assert timeline([], []) == ([], None)
