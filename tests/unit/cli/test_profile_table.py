"""The tables of `liveprofile profile show` and `deltas`."""

from __future__ import annotations

from cli.profile import change_sentence, delta_table, profile_table
from liveprofile.storage.queries import StoredDelta
from liveprofile.units import DAY_MS
from tests.support.rows.stored_rows import stored_profile
from tests.support.rows.value_curves import curve_document

END_MS = 1_511_658_000_000


def shown(document: dict, days: int, last: StoredDelta | None = None) -> dict[str, str]:
    row = stored_profile(
        window_end_ms=END_MS,
        churn=0.25,
        expected_spend=40.0,
        recency_days=None,
        segments=["loyal"],
        profile=document,
    )
    names, values = (
        list(column.cells) for column in profile_table(row, END_MS + days * DAY_MS, last).columns
    )
    return dict(zip(names, values, strict=True))


def test_values_are_those_of_the_moment_if_the_profile_has_curves() -> None:
    now, later = shown(curve_document(), 0), shown(curve_document(), 7)
    assert (now["churn"], now["expected spend"]) == ("10.0%", "30.00")
    assert (later["churn"], later["expected spend"]) == ("80.0%", "5.00")
    assert later["next purchase"] == "in about 20.0 days"
    assert now["values as of"] == "2017-11-26 01:00:00"
    assert later["values as of"] == "2017-12-03 01:00:00"


def test_moment_before_the_last_window_counts_as_its_end() -> None:
    assert shown(curve_document(), -1) == shown(curve_document(), 0)


def test_profile_without_curves_shows_its_stored_values() -> None:
    found = shown({}, 7)
    assert (found["churn"], found["expected spend"]) == ("25.0%", "40.00")
    assert "next purchase" not in found
    assert found["values as of"] == "2017-11-26 01:00:00"  # as they are stored


def window(document: dict) -> StoredDelta:
    return StoredDelta("u", 0, END_MS, "m", 3, 5.0, 0.1, 2.0, [], document, b"")


def test_change_is_told_in_a_sentence() -> None:
    moved = [["tea", 0.0, 0.1], ["milk", 0.4, 0.32], ["eggs", 0.3, 0.298]]
    change = {
        "before": {"churn": 0.3, "expected_spend": 20.0},
        "after": {"churn": 0.17, "expected_spend": 20.1},
        "moved_categories": moved,
    }
    sentence = "More tea (0.0% to 10.0%); less milk (40.0% to 32.0%); churn fell from 30.0% to"
    table = delta_table("u", [window(change), window({})])
    cells = {str(each.header): list(each.cells) for each in table.columns}
    assert cells["what changed"] == [f"{sentence} 17.0%.", "Little has changed."]
    more = change_sentence({"before": {"expected_spend": 20}, "after": {"expected_spend": 31.5}})
    assert more == "Expected spend rose from 20.00 to 31.50."
    assert shown({}, 0, window(change))["last change"] == f"{sentence} 17.0%."
    assert "last change" not in shown({}, 0)
