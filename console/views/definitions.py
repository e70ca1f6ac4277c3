"""Rules and segments as a text to edit, and what a text would change."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from liveprofile.rules.definitions import Definition, DefinitionProblem, DefinitionsError
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
