"""What statements of a keyspace declare: tables, columns, keys, options and indexes. Pure.

It understands the statements that schemas/ contains: CREATE, ALTER and DROP of tables, CREATE and
DROP of indexes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

_TABLE = r"\S+?\.(\w+)"
_CREATE = re.compile(rf"CREATE TABLE IF NOT EXISTS {_TABLE} \((.*?)\)(?: WITH (.*))?")
_ADD = re.compile(rf"ALTER TABLE {_TABLE} ADD IF NOT EXISTS \((.*)\)")
_REMOVE = re.compile(rf"ALTER TABLE {_TABLE} DROP IF EXISTS \((.*)\)(?: USING TIMESTAMP \S+)?")
_SET = re.compile(rf"ALTER TABLE {_TABLE} WITH (.*)")
_DROP = re.compile(rf"DROP TABLE IF EXISTS {_TABLE}")
_INDEX = re.compile(rf"CREATE INDEX IF NOT EXISTS (\w+) ON {_TABLE} \((.*)")
# Cassandra's own: a table with it is as one without the option.
_DEFAULTS = {"compression": "{'class': 'LZ4Compressor', 'chunk_length_in_kb': 16}"}
_DROP_INDEX = re.compile(rf"DROP INDEX IF EXISTS {_TABLE}")


class Table(NamedTuple):
    """A table: types of columns with `static`, columns of the partition key and after it."""

    columns: dict[str, str]
    partition_key: tuple[str, ...]
    clustering: tuple[str, ...]
    options: dict[str, str]


class Declarations(NamedTuple):
    """The tables and indexes of a keyspace. An index is the text after its name."""

    tables: dict[str, Table]
    indexes: dict[str, str]


def split_statements(text: str) -> list[str]:
    """The statements of a CQL text without comments, each as it is written."""
    code = "\n".join(line.split("--")[0] for line in text.splitlines())
    return [statement.strip() for statement in code.split(";") if statement.strip()]


def declare(statements: Iterable[str]) -> Declarations:
    """What a keyspace has after these statements. Raises ValueError for a statement of no kind."""
    found = Declarations({}, {})
    for statement in statements:
        _apply(found, " ".join(statement.split()))
    return found


def created_columns(statements: Iterable[str]) -> dict[str, set[str]]:
    """The columns that the statements create or add, by table."""
    found: dict[str, set[str]] = {}
    for statement in statements:
        text = " ".join(statement.split())
        if create := _CREATE.fullmatch(text):
            found.setdefault(create[1], set()).update(_table(create[2], None).columns)
        elif add := _ADD.fullmatch(text):
            found.setdefault(add[1], set()).update(_columns(_parts(add[2])))
    return found


def _apply(found: Declarations, text: str) -> None:
    tables = found.tables
    if create := _CREATE.fullmatch(text):
        tables.setdefault(create[1], _table(create[2], create[3]))
    elif add := _ADD.fullmatch(text):
        columns = tables[add[1]].columns
        columns.update(_columns(_parts(add[2])) | columns)
    elif remove := _REMOVE.fullmatch(text):
        for name in _parts(remove[2]):
            tables[remove[1]].columns.pop(name, None)
    elif options := _SET.fullmatch(text):
        merged = tables[options[1]].options
        merged.update(_options(options[2]))
        for name, default in _DEFAULTS.items():
            if merged.get(name) == default:
                del merged[name]
    elif drop := _DROP.fullmatch(text):
        tables.pop(drop[1], None)
    elif index := _INDEX.fullmatch(text):
        found.indexes.setdefault(index[1], f"{index[2]} ({index[3]}")
    elif drop := _DROP_INDEX.fullmatch(text):
        found.indexes.pop(drop[1], None)
    elif not text.startswith("CREATE KEYSPACE "):
        raise ValueError(f"a statement that is not understood: {text}")


def _table(body: str, options: str | None) -> Table:
    parts = _parts(body)
    columns = _columns(part for part in parts if not part.startswith("PRIMARY KEY"))
    for name, kind in columns.items():
        if kind.endswith(" PRIMARY KEY"):
            columns[name] = kind.removesuffix(" PRIMARY KEY")
            return Table(columns, (name,), (), _options(options))
    [key] = (part for part in parts if part.startswith("PRIMARY KEY"))
    composite, simple, rest = re.fullmatch(
        r"PRIMARY KEY \((?:\((.*?)\)|(\w+))(?:, (.*))?\)", key
    ).groups()
    return Table(
        columns,
        tuple(_parts(composite or simple)),
        tuple(_parts(rest or "")),
        _options(options),
    )


def _columns(parts: Iterable[str]) -> dict[str, str]:
    pairs = (part.split(" ", 1) for part in parts)
    return {name: kind for name, kind in pairs}


def _options(text: str | None) -> dict[str, str]:
    if not text:
        return {}
    found = {}
    for part in _parts(text, " AND "):
        if order := re.fullmatch(r"CLUSTERING ORDER BY (.*)", part):
            found["CLUSTERING ORDER BY"] = order[1]
        else:
            name, _, value = part.partition("=")
            found[name.strip()] = re.sub(r"\{ | \}", lambda brace: brace[0].strip(), value.strip())
    return found


def _parts(text: str, separator: str = ",") -> list[str]:
    """Splits at separators that are not inside a type, a key or a map."""
    parts, depth = [""], 0
    for piece in re.split(rf"([<({{>)}}]|{separator})", text):
        if piece == separator and depth == 0:
            parts.append("")
            continue
        depth += (piece in ("<", "(", "{")) - (piece in (">", ")", "}"))
        parts[-1] += piece
    return [part.strip() for part in parts if part.strip()]
