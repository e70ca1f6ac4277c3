"""What edited rules would have done, and the lines that they change."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import NamedTuple

from console.charts.bars import BarChart, bar_chart
from console.formats import number, share, utc
from liveprofile.labels.rule_backtest import Backtest
from liveprofile.rules.backtest import Outcome
from liveprofile.units import DAY_MS

MAX_USERS = 50
MONTH_AND_DAY = slice(5, 10)  # of a formatted time
CONTEXT_LINES = 2


class DiffLine(NamedTuple):
    kind: str  # added, removed, place or same
    text: str


class BacktestView(NamedTuple):
    since_ms: int
    until_ms: int
    rows: str  # what was evaluated
    figures: list[tuple[str, str, str]]  # name, in force, edited
    by_rule: list[tuple[str, str, str]]
    chart: BarChart
    skipped: list[tuple[str, str]]
    gained: Sequence[str]
    lost: Sequence[str]
    gained_more: int  # users beyond MAX_USERS
    lost_more: int


def backtest_view(found: Backtest) -> BacktestView:
    sides = found.current, found.edited
    first, last = found.since_ms // DAY_MS, found.until_ms // DAY_MS
    days = [day * DAY_MS for day in range(first, last + 1)]
    series = [
        (name, [float(side.alerts_by_day.get(day, 0)) for day in days])
        for name, side in zip(("in force", "edited"), sides, strict=True)
    ]
    rules = sorted(sides[0].alerts_by_rule.keys() | sides[1].alerts_by_rule.keys())
    return BacktestView(
        found.since_ms,
        found.until_ms,
        f"{number(found.windows)} windows and {number(found.events)} events",
        [
            _figure("alerts", [number(side.alerts) for side in sides]),
            _figure("alerts per day", [number(side.alerts / len(days), 1) for side in sides]),
            _figure("users with an alert", [number(len(side.users)) for side in sides]),
            _figure("precision against labels", list(map(_precision, sides))),
            _figure("flags of rules in shadow", [number(side.shadow_flags) for side in sides]),
        ],
        [
            _figure(rule, [number(side.alerts_by_rule.get(rule, 0)) for side in sides])
            for rule in rules
        ],
        bar_chart([utc(day)[MONTH_AND_DAY] for day in days], series),
        sorted(found.skipped.items()),
        found.gained[:MAX_USERS],
        found.lost[:MAX_USERS],
        max(0, len(found.gained) - MAX_USERS),
        max(0, len(found.lost) - MAX_USERS),
    )


def diff(before: str, after: str) -> list[DiffLine]:
    """The changed lines with some around them; [] if nothing changes."""
    lines = difflib.unified_diff(
        before.strip().splitlines(), after.strip().splitlines(), lineterm="", n=CONTEXT_LINES
    )
    kinds = {"+": "added", "-": "removed", "@": "place"}
    return [
        DiffLine(kinds.get(line[:1], "same"), line)
        for line in list(lines)[2:]  # without the names of files
    ]


def _figure(name: str, values: list[str]) -> tuple[str, str, str]:
    current, edited = values
    return name, current, edited


def _precision(side: Outcome) -> str:
    if side.precision is None:
        return "no label"
    return f"{share(side.precision)} of {number(side.labelled)} labelled"
