"""Rules and segments as a text to edit, what a text would change, and would have done."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from console.charts import BarChart, bar_chart
from console.formats import number, share, utc
from liveprofile.labels.rule_backtest import Backtest
from liveprofile.rules.backtest import Outcome
from liveprofile.rules.definitions import Definition, DefinitionProblem, DefinitionsError
from liveprofile.units import DAY_MS
from services.definitions import ATTRIBUTES_FILE, DefinitionKind, parse

_COLUMNS = ("id", "version", "state", "when")


def check(
    kind: DefinitionKind, text: str, attributes: Path = ATTRIBUTES_FILE
) -> tuple[list[Definition] | None, list[str]]:
    """The definitions of a TOML text with tables [[rules]] or [[segments]], or None; its faults.

    attributes: the file with the attributes that conditions may read. Raises ServiceError if that
    file is invalid.
    """
    try:
        tables = tomllib.loads(text).get(kind, [])
    except tomllib.TOMLDecodeError as error:
        return None, [f"TOML: {error}"]
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        return None, [f"{kind}: must be tables [[{kind}]]"]
    if not tables:
        return None, [f"the text has no table [[{kind}]]"]
    try:
        return parse(kind, tables, attributes), []
    except DefinitionsError as error:
        return None, [_described(problem) for problem in error.problems]


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


def details(definition: Definition) -> list[tuple[str, str]]:
    """What a table of definitions has no column for, without what the definition does not set."""
    return [
        (name, _value(value).strip('"'))
        for name, value in definition.model_dump(mode="json").items()
        if name not in _COLUMNS and value not in (None, "", [], {})
    ]


MONTH_AND_DAY = slice(5, 10)  # of a formatted time
CONTEXT_LINES = 2


def backtest_chart(found: Backtest) -> BarChart:
    """Alerts by day, in force and edited."""
    days = range(found.since_ms // DAY_MS, found.until_ms // DAY_MS + 1)
    series = [
        (name, [float(side.alerts_by_day.get(day * DAY_MS, 0)) for day in days])
        for name, side in (("in force", found.current), ("edited", found.edited))
    ]
    return bar_chart([utc(day * DAY_MS)[MONTH_AND_DAY] for day in days], series)


def backtest_figures(found: Backtest) -> list[tuple[str, str, str]]:
    """Name, in force, edited."""
    days = found.until_ms // DAY_MS - found.since_ms // DAY_MS + 1
    sides = found.current, found.edited
    figures: list[tuple[str, Callable[[Outcome], str]]] = [
        ("alerts", lambda side: number(side.alerts)),
        ("alerts per day", lambda side: number(side.alerts / days, 1)),
        ("users with an alert", lambda side: number(len(side.users))),
        ("precision against labels", _precision),
        ("flags of rules in shadow", lambda side: number(side.shadow_flags)),
    ]
    return [(name, *map(figure, sides)) for name, figure in figures]


def diff(before: str, after: str) -> list[tuple[str, str]]:
    """The changed lines with some around them, [] if nothing changes.

    Each has a kind: added, removed, place or same.
    """
    lines = difflib.unified_diff(
        before.strip().splitlines(), after.strip().splitlines(), lineterm="", n=CONTEXT_LINES
    )
    kinds = {"+": "added", "-": "removed", "@": "place"}
    return [
        (kinds.get(line[:1], "same"), line)
        for line in list(lines)[2:]  # without the names of files
    ]


def _precision(side: Outcome) -> str:
    if side.precision is None:
        return "no label"
    return f"{share(side.precision)} of {number(side.labelled)} labelled"
