"""What commands print: tables, and that a pipe gets each row in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.alerts import flag_table as flag_state_table
from cli.common import Call, print_tables, table
from cli.privacy import CHECKPOINT
from cli.profile import change_sentence, delta_table, flag_table, profile_table
from cli.risk import shown_backtest
from liveprofile.alerts.cases.flags import FlagWithState
from liveprofile.alerts.cases.states import AlertState, StoredAlertState
from liveprofile.labels.rule_backtest import compare
from liveprofile.privacy.trained_users import TrainedCheckpoint, TrainedUsers, user_key
from liveprofile.rules.backtest import StoredEvent, event_blocks
from liveprofile.storage.queries import StoredDelta
from liveprofile.units import DAY_MS
from tests.support.rows.rule_examples import rule
from tests.support.rows.stored_rows import stored_profile
from tests.support.rows.value_curves import curve_document
from tests.unit.liveprofile.alerts.test_cases import stored

LONG_ID = "f" * 300


def test_piped_table_has_a_line_per_row(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(LONG_ID, 12, "a message [bold] of many words :smile: " * 20), ("2", 7.5, "short")]
    columns = {"flag": "{[0]}", ">amount": "{[1]:.2f}", "message": "{[2]}"}
    print_tables(table("Flags", rows, columns))
    title, _, header, _, first, second = capsys.readouterr().out.rstrip().splitlines()
    assert (title.strip(), header.split()) == ("Flags", ["flag", "amount", "message"])
    assert first.split()[:2] == [LONG_ID, "12.00"]
    assert first.count("[bold] of many words :smile:") == 20
    assert second.split() == ["2", "7.50", "short"]


def test_flags_show_the_id_that_alerts_takes(capsys: pytest.CaptureFixture[str]) -> None:
    flag = stored(flag_id="6f1c2a09b7d34e58")
    state = StoredAlertState(AlertState.OPEN, "", "", 0)
    for made in (flag_table([flag]), flag_state_table([FlagWithState(flag, state)])):
        print_tables(made)
        assert capsys.readouterr().out.rstrip().splitlines()[-1].split()[0] == flag.flag_id


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


START_MS = 1_511_654_400_000


def test_alerts_of_both_sides_stand_in_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    events = [
        StoredEvent("a", START_MS, "1", "purchase", 5.0, 0.5, None),
        StoredEvent("b", START_MS + DAY_MS, "2", "purchase", 50.0, 0.5, None),
    ]
    ring = rule(id="ring", when="user_purchases_1d > 3", message="{value}")
    edited = [rule(threshold=9), ring]
    end_ms = START_MS + 2 * DAY_MS
    labels = {("a", START_MS): "legitimate"}
    found = compare([rule()], edited, event_blocks(events), START_MS, end_ms, labels)
    Call().print(None, *shown_backtest(found))
    assert found.skipped["ring"].startswith("reads user_purchases_1d")
    printed = capsys.readouterr()
    lines = [" ".join(line.split()) for line in printed.out.splitlines()]
    assert "alerts, in force and edited 2, 1" in lines
    assert "frauds of labelled alerts 0/1, 0/0" in lines
    assert "users who lose alerts 1" in lines
    assert "2017-11-26 1 0" in lines
    assert "many 2 1" in lines


def test_table_says_which_models_to_train_again() -> None:
    trained = TrainedUsers.of_training([user_key("a"), user_key("b")], "rows")
    made = table(
        None,
        [
            TrainedCheckpoint(Path("clean"), "1", trained, []),
            TrainedCheckpoint(Path("old"), "2", trained, ["a"]),
            TrainedCheckpoint(Path("foreign"), "3", None, []),
        ],
        CHECKPOINT,
    )
    rows = list(zip(*(column.cells for column in made.columns), strict=True))
    assert [row[:4] for row in rows] == [
        ("clean", "1", "2", "0"),
        ("old", "2", "2", "1"),
        ("foreign", "3", "unknown", "unknown"),
    ]
    assert [bool(row[4]) for row in rows] == [False, True, True]
