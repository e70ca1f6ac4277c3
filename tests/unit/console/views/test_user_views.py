"""The sentence, figures, interests, activity and timeline of a user."""

from __future__ import annotations

import pytest

from console.views.timeline import timeline
from console.views.user import KINDS, Group, activity, figures, interests, mean_affinity, who
from liveprofile.units import HOUR_MS
from tests.support.memory.api import NOW_MS
from tests.support.rows.api_rows import stored_flag_of
from tests.support.rows.console_rows import FEATURES, WINDOWS, known_delta, known_profile
from udfs.profile.assemble import FEATURES as JOB_FEATURES


def test_sentence_names_what_is_known() -> None:
    profile = {
        "category_affinity": {"tea": 0.25, "coffee": 0.5, "cups": 0.004, "spoons": 0.001},
        "activity_hour": [0.3, 0.2] + [0.0] * 21 + [0.2],
        "activity_weekday": [0.0] * 6 + [1.0],
    }
    assert who(["loyal", "new"], FEATURES, profile) == (
        "A loyal and new customer: 23 purchases for 1,037.5, usually 45.1 in a window with a"
        " purchase; the last 3.2 days ago; mostly coffee (50 %), tea (25 %) and cups (< 1 %);"
        " most active on Sundays and around 00:30 UTC; 23 % probability of no purchase within the"
        " model's horizon, expected spend 60."
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
    assert all(kind.explanation.endswith(".") for kind in KINDS.values())


def test_figures_show_what_the_last_window_changed() -> None:
    found = {each.label: each for each in figures({"churn": 0.25, "events": 7}, {"churn": 0.5})}
    assert (
        found["probability of no purchase"].value,
        found["probability of no purchase"].before,
    ) == ("25 %", "50 %")
    assert (found["events"].value, found["events"].before) == ("7", "")


def test_unknown_figure_is_a_dash() -> None:
    [figure] = figures({"recency_days": None}, {})
    assert figure.value == "–"


def test_mean_of_shares_counts_users_with_any() -> None:
    rows = [known_profile(), known_profile("b"), known_profile("c")._replace(profile="{}")]
    assert mean_affinity(rows)["coffee"] == pytest.approx(0.5)
    assert mean_affinity([]) == {}


def test_radar_has_the_users_categories_filled_up_with_those_of_everyone() -> None:
    everyone = Group("everyone", {"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.1})
    chart = interests({"x": 0.8, "a": 0.2}, [everyone])
    assert [row.category for row in chart.rows] == ["x", "a", "b", "c", "d"]
    assert chart.rows[1].shares == [0.2, 0.4]
    own, others = chart.chart.series
    assert own.points.startswith("160.0,56.0 ")  # the largest share ends at the end of its axis
    assert others.points.startswith("160.0,160.0 ")
    assert interests({}, [Group("everyone", {})]).chart is None
    assert interests({"only": 1.0}, []).chart is None


def test_activity_counts_events_of_short_windows_at_their_hour() -> None:
    found = activity([known_delta(0), known_delta(1)], {})
    full = [cell for cell in found.chart.cells if cell.opacity > 0.5]
    assert [cell.title for cell in full] == ["Sun 00:00, 50.0 %", "Sat 23:00, 50.0 %"][::-1]
    assert found.source == "events of 2 stored windows"


def test_activity_of_long_windows_comes_from_the_profile() -> None:
    day = known_delta(0)._replace(window_start_ms=NOW_MS - 24 * HOUR_MS)
    profile = {"activity_hour": [1.0] + 23 * [0.0], "activity_weekday": 7 * [1 / 7]}
    found = activity([day], profile)
    assert "independent" in found.source
    assert found.chart.busiest == "Mon 00:00, 14.3 %"
    assert activity([day], {}).chart is None


def test_timeline_is_newest_first_and_marks_the_windows_of_flags() -> None:
    deltas = [known_delta(hours) for hours in range(WINDOWS)]
    flag = stored_flag_of(1)._replace(window_end_ms=NOW_MS - HOUR_MS - 60_000)
    found = timeline(deltas, [flag])
    assert [entry.level for entry in found.entries[:4]] == ["", "", "high", ""]
    assert found.entries[0].title == "2 view, 1 purchase, 20.25 spent"
    assert "interests: tea 20 % → 30 %" in found.entries[0].lines
    assert [mark.title for mark in found.chart.marks] == ["rule001"]
    assert len(found.chart.dots) == WINDOWS
    assert found.window_ends_ms == sorted(delta.window_end_ms for delta in deltas)


def test_timeline_tells_which_flags_a_correction_has_withdrawn() -> None:
    flag = stored_flag_of(1)
    marks = (None, "KEPT", "WITHDRAWN")
    entries = [timeline([], [flag._replace(correction=mark)]).entries[0] for mark in marks]
    raised, kept, withdrawn = (entry.lines for entry in entries)
    assert kept == raised
    assert withdrawn[:-1] == raised and "withdrawn by a correction" in withdrawn[-1]


def test_timeline_of_nothing_is_empty() -> None:
    assert timeline([], []) == ([], None, None, [])
