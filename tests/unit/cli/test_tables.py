"""What commands print: tables, and that a pipe gets each row in one line."""

from typing import Any

import pytest
import typer

from cli.common import Call, cell
from cli.profile import change_sentence, profile_fields, similar_table
from cli.risk import shown_backtest
from liveprofile.storage.queries import SimilarUser
from liveprofile.units import DAY_MS
from services.rule_backtest import StoredEvent, blocks, compare
from tests.support.rows.rule_examples import rule
from tests.support.rows.stored_rows import stored_profile
from tests.support.rows.value_curves import curve_document

LONG_ID = "f" * 300
END_MS = 1_511_658_000_000
ROWS = [
    {"flag_id": LONG_ID, "amount": 12.0, "at_ms": END_MS, "message": "a [bold] :smile: " * 20},
    {"flag_id": "2", "amount": 7.5, "at_ms": None, "message": "short"},
]
COLUMNS = "flag_id amount at_ms message"


def test_piped_table_has_a_line_per_row(capsys: pytest.CaptureFixture[str]) -> None:
    Call().rows(ROWS, COLUMNS, "Flags")
    title, _, header, _, first, second = capsys.readouterr().out.rstrip().splitlines()
    assert (title.strip(), header.split()) == ("Flags", ["flag", "id", "amount", "at", "message"])
    assert first.split()[:4] == [LONG_ID, "12.00", "2017-11-26", "01:00:00"]
    assert first.count("[bold] :smile:") == 20
    assert second.split() == ["2", "7.50", "-", "short"]


def test_short_rows_of_a_piped_table_have_no_blanks_of_a_long_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [{"id": "1", "text": "x" * 900}, {"id": "2", "text": "short"}]
    Call().rows(rows, "id text")
    header, rule, long, short = filter(None, capsys.readouterr().out.splitlines())
    assert len(long) > 900 and max(map(len, (header, rule, short))) <= 100


def test_no_rows_are_said_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Call().rows([], COLUMNS, empty="no flags")
    assert capsys.readouterr() == ("", "no flags\n")
    Call(json=True).rows([], COLUMNS, empty="no flags")
    assert capsys.readouterr() == ("[]\n", "")
    for call in (Call(), Call(json=True)):
        with pytest.raises(typer.Exit):
            call.rows([], COLUMNS, missing="no such user")
        assert capsys.readouterr().err == "liveprofile: no such user\n"


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("duration_ms", 250, "250"),
        ("share", 0.0004, "0.0004"),
        ("drifting", False, "no"),
        ("rules", ["a", "b"], "a, b"),
        ("checkpoint", {"age_s": 2.0, "bytes": 7}, "age_s 2.00, bytes 7"),
        ("rules", [], "-"),
    ],
)
def test_values_are_printed_without_braces(name: str, value: Any, shown: str) -> None:
    assert cell(name, value) == shown


def shown(document: dict, days: int) -> dict[str, Any]:
    values = {"churn": 0.25, "expected_spend": 40.0, "recency_days": None}
    row = stored_profile(window_end_ms=END_MS, profile=document, **values)
    return profile_fields(row, END_MS + days * DAY_MS)


def test_values_are_those_of_the_moment_if_the_profile_has_curves() -> None:
    now, later = shown(curve_document(), 0), shown(curve_document(), 7)
    assert (now["churn"], now["expected spend"]) == ("10.0%", "30.00")
    assert later["churn"] == "80.0% (10.0% at the window's end)"  # as the last change has it
    assert later["expected spend"] == "5.00 (30.00 at the window's end)"
    assert later["next purchase, days"] == pytest.approx(20.0)
    assert now["values as of"] == "2017-11-26 01:00:00"
    assert later["values as of"] == "2017-12-03 01:00:00"
    assert shown(curve_document(), -1) == now
    stored = shown({}, 7)
    assert (stored["churn"], stored["expected spend"]) == ("25.0%", "40.00")
    assert stored["values as of"] == "2017-11-26 01:00:00"  # as they are stored


def test_missing_similar_users_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    Call().print(None, similar_table([]))
    reason = capsys.readouterr().out
    assert reason.startswith("no similar users: ") and reason.endswith(" window 4\n")
    Call().print(None, similar_table([SimilarUser("7", 0.5, [], END_MS)]))
    assert capsys.readouterr().out.splitlines()[-2].split()[:2] == ["7", "0.5"]


def test_change_is_told_in_a_sentence() -> None:
    moved = [["tea", 0.0, 0.1], ["milk", 0.4, 0.32], ["eggs", 0.3, 0.298]]
    change = {
        "before": {"churn": 0.3, "expected_spend": 20.0},
        "after": {"churn": 0.17, "expected_spend": 20.1},
        "moved_categories": moved,
    }
    sentence = "More tea (0.0% to 10.0%); less milk (40.0% to 32.0%); churn fell from 30.0% to"
    assert change_sentence(change) == f"{sentence} 17.0%."
    assert change_sentence({}) == "Little has changed."
    more = change_sentence({"before": {"expected_spend": 20}, "after": {"expected_spend": 31.5}})
    assert more == "Expected spend rose from 20.00 to 31.50."


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
    found = compare([rule()], edited, blocks(events), START_MS, end_ms, labels)
    Call().print(None, *shown_backtest(found))
    assert found.skipped["ring"].startswith("reads user_purchases_1d")
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "alerts, in force and edited 2, 1" in lines
    assert "frauds of labelled alerts 0/1, 0/0" in lines
    assert "2017-11-26 00:00:00 1 0" in lines
    assert "many 2 1" in lines
