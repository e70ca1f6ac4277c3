"""Rules and segments as a text to edit, what a text would change, and would have done."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from console.charts import BarChart, bar_chart
from console.formats import number, share, utc
from liveprofile.labels.rule_backtest import Backtest
from liveprofile.rules.backtest import Outcome
from liveprofile.rules.definitions import Definition, DefinitionProblem, DefinitionsError
from liveprofile.units import DAY_MS
from services.definitions import ATTRIBUTES_FILE, DefinitionKind, parse


class Checked(NamedTuple):
    """definitions: None if the text has faults."""

    definitions: list[Definition] | None
    problems: list[str]


class DefinitionRow(NamedTuple):
    id: str
    version: int
    state: str
    when: str
    details: list[tuple[str, str]]


_FIRST = ("id", "version", "state", "when")


def check(kind: DefinitionKind, text: str, attributes: Path = ATTRIBUTES_FILE) -> Checked:
    """Reads a TOML text with tables [[rules]] or [[segments]].

    attributes: the file with the attributes that conditions may read. Raises ServiceError if that
    file is invalid.
    """
    try:
        tables = tomllib.loads(text).get(kind, [])
    except tomllib.TOMLDecodeError as error:
        return Checked(None, [f"TOML: {error}"])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        return Checked(None, [f"{kind}: must be tables [[{kind}]]"])
    if not tables:
        return Checked(None, [f"the text has no table [[{kind}]]"])
    try:
        return Checked(parse(kind, tables, attributes), [])
    except DefinitionsError as error:
        return Checked(None, [_described(problem) for problem in error.problems])


def _described(problem: DefinitionProblem) -> str:
    place = ", ".join(filter(None, [problem.key, problem.column]))
    return f"{problem.name or 'the text'}: {place}: {problem.reason}"


def to_toml(kind: DefinitionKind, definitions: Iterable[Definition]) -> str:
    """The definitions as `check` reads them."""
    texts = []
    for each in definitions:
        table = each.model_dump(mode="json")
        lines = [f"{name} = {_value(value)}" for name, value in table.items() if value is not None]
        texts.append("\n".join([f"[[{kind}]]", *lines, ""]))
    return "\n".join(texts)


def _value(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str() if "\n" in value:
            return '"""\n' + "\n".join(map(_escaped, value.split("\n"))) + '"""'
        case str():
            return f'"{_escaped(value)}"'
        case Mapping():
            pairs = (f'"{_escaped(k)}" = {_value(v)}' for k, v in value.items())
            return f"{{ {', '.join(pairs)} }}" if value else "{}"
        case Sequence():
            return f"[{', '.join(map(_value, value))}]"
    return repr(value)


def _escaped(text: str) -> str:
    """JSON's escapes are TOML's, which also forbids DEL."""
    return orjson.dumps(text)[1:-1].decode().replace("\x7f", "\\u007f")


def rows(definitions: Iterable[Definition]) -> list[DefinitionRow]:
    """For a table; `details` leaves out what a definition does not set."""
    found = []
    for each in definitions:
        values = each.model_dump(mode="json")
        details = [
            (name, _value(value).strip('"'))
            for name, value in values.items()
            if name not in _FIRST and value not in (None, "", [], {})
        ]
        found.append(
            DefinitionRow(
                values["id"],
                values["version"],
                values.get("state", ""),
                values.get("when", ""),
                details,
            )
        )
    return found


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
