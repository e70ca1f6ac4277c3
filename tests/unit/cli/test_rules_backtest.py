"""The printed result of `liveprofile risk rules backtest`."""

from __future__ import annotations

import pytest

from cli.common import Call
from cli.risk import shown_backtest
from liveprofile.labels.rule_backtest import compare
from liveprofile.rules.backtest import StoredEvent, event_blocks
from liveprofile.units import DAY_MS
from tests.support.rows.rule_examples import rule

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
