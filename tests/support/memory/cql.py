"""Statements of the product, executed on MemoryTables.

SELECT, INSERT, UPDATE and DELETE, with their conditions, of the tables in schemas/cassandra.cql.
"""

import re
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Self
from uuid import UUID

import numpy as np

from liveprofile.rows import TABLES
from tests.support.memory.tables import Check, MemoryTables, Row, stored, token_of, type_of

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_TOKEN = re.compile(rf"'(?:[^']|'')*'|{_UUID}|%s|[A-Za-z_][\w.]*|-?\d+(?:\.\d+)?|<=|>=|\S")
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "<": lambda a, b: a is not None and a < b,
    ">": lambda a, b: a is not None and a > b,
    "<=": lambda a, b: a is not None and a <= b,
    ">=": lambda a, b: a is not None and a >= b,
    "IN": lambda a, b: a in b,
    "CONTAINS": lambda a, b: a is not None and b in a,
}


class Rows(list):
    """A result as the driver's ResultSet."""

    paging_state = None
    was_applied = True

    @property
    def current_rows(self) -> Self:
        return self

    def one(self) -> Any:
        return self[0] if self else None


class Statement:
    """One statement, read from its text from left to right, as its values are."""

    def __init__(self, tables: MemoryTables, text: str, values: Iterable[Any]):
        self._tables, self.words = tables, _TOKEN.findall(text)
        self._at, self._values = 0, iter(values)

    def select(self) -> Rows:
        self._take("SELECT")
        distinct = self._skip("DISTINCT")
        items = [self._item()]
        while self._skip(","):
            items.append(self._item())
        self._take("FROM")
        keyspace, _, table = self._name().rpartition(".")
        self._table = table
        self._tables.reads.append(table)
        if keyspace.startswith("system"):
            return Rows([("local",)] if table == "local" else [])
        keys: Row = {}
        check, most = self._where(keys), None
        of_partition = TABLES[table].partition_key
        only = tuple(map(keys.get, of_partition)) if keys.keys() >= set(of_partition) else None
        rows: Iterable[Row] = filter(check, self._tables.ordered(table, only))
        if self._skip("ORDER"):
            self._take("BY")
            column = self._name()
            if self._skip("ANN"):
                self._take("OF")
                near = self._value("vector")
                rows = sorted(rows, key=lambda row: -_cosine(row[column], near))
            else:
                descends = self._name() == "DESC"
                rows = sorted(rows, key=lambda row: row[column], reverse=descends)
        if self._skip("PER"):  # PARTITION LIMIT, which no test reaches
            self._at += 3
        if self._skip("LIMIT"):
            most = self._value("int")
        kind = namedtuple("Row", [name for name, _ in items], rename=True)
        found = (kind(*(read(row) for _, read in items)) for row in rows)
        return Rows(islice(dict.fromkeys(found) if distinct else found, most))

    def write(self) -> tuple[bool, Callable[[], None]]:
        """Whether its condition holds, and what it does."""
        return {"INSERT": self._insert, "UPDATE": self._update, "DELETE": self._delete}[
            self._name()
        ]()

    def _insert(self) -> tuple[bool, Callable[[], None]]:
        self._take("INTO")
        table = self._table = self._name().rpartition(".")[2]
        names = self._names()
        self._take("VALUES", "(")
        row = {}
        for name in names:
            row[name] = self._value(type_of(table, name))
            self._skip(",")
        self._take(")")
        holds = True
        if self._skip("IF"):
            self._take("NOT", "EXISTS")
            partition, rest = self._tables.key_of(table, row)
            holds = (partition, rest) not in self._tables.cells[table]
        time_us = self._using()
        return holds, lambda: self._tables.write(table, row, time_us)

    def _update(self) -> tuple[bool, Callable[[], None]]:
        table = self._table = self._name().rpartition(".")[2]
        time_us = self._using()
        self._take("SET")
        row = {}
        while not row or self._skip(","):
            name = self._name()
            self._take("=")
            row[name] = self._value(type_of(table, name))
        keys: Row = {}
        check = self._where(keys)
        holds = True
        if self._skip("IF"):
            found = next(filter(check, self._tables.ordered(table)), None)
            held = dict.fromkeys(TABLES[table].columns) | (found or {})
            holds = found is not None if self._skip("EXISTS") else self._conditions()(held)
        return holds, lambda: self._tables.write(table, row | keys, time_us)

    def _delete(self) -> tuple[bool, Callable[[], None]]:
        self._take("FROM")
        table = self._table = self._name().rpartition(".")[2]
        tables, keys = self._tables, {}
        time_us, check = self._using(), self._where(keys)

        def delete() -> None:
            tables.deletions[table].append((check, time_us))
            for row in list(filter(check, tables.ordered(table))):
                partition, rest = tables.key_of(table, row)
                places = [(tables.cells[table], (partition, rest))]
                if keys.keys() <= set(TABLES[table].partition_key):
                    places.append((tables.statics[table], partition))
                for cells, key in places:
                    if all(cell.time_us <= time_us for cell in cells.get(key, {}).values()):
                        cells.pop(key, None)

        return True, delete

    def _item(self) -> tuple[str, Callable[[Row], Any]]:
        if self._skip("("):  # (text)'' as a constant
            self._at += 2
            text = self._value("text")
            return "text", lambda row: text
        name = self._name()
        if self._skip("("):
            column, function = self._name(), name.lower()
            near = self._value("vector") if self._skip(",") else None
            self._take(")")
            name = f"{function}_{column}"
            reads: dict[str, Callable[[Row], Any]] = {
                "to_unix_timestamp": lambda row: row[column],
                "similarity_cosine": lambda row: (1 + _cosine(row[column], near)) / 2,
                "writetime": lambda row: None if row[column] is None else row[""][column].time_us,
                "ttl": lambda row: None,
                "token": lambda row: token_of((row[column],)),
            }
            read = reads[function]
        else:
            column = name

            def read(row: Row) -> Any:
                return _read(type_of(self._table, column), row[column])

        return (self._name() if self._skip("AS") else name), read

    def _where(self, equal: Row | None = None) -> Check:
        return self._conditions(equal) if self._skip("WHERE") else lambda row: True

    def _conditions(self, equal: Row | None = None) -> Check:
        """equal: gets the values of `column = value`."""
        checks = [self._condition(equal)]
        while self._skip("AND"):
            checks.append(self._condition(equal))
        return lambda row: all(check(row) for check in checks)

    def _condition(self, equal: Row | None) -> Check:
        is_token = self._skip("token")
        names = self._names() if self.words[self._at] == "(" else [self._name()]
        operator = self._name()
        if is_token:
            if self._skip("token"):
                self._take("(")
                limit = token_of((self._value("text"),))
                self._take(")")
            else:
                limit = self._value("bigint")
            compare = _OPERATORS[operator]
            return lambda row: compare(token_of(tuple(row[name] for name in names)), limit)
        kinds = [type_of(self._table, name) for name in names]
        if operator == "CONTAINS":
            wanted = self._value("text")
        elif operator == "IN" and self.words[self._at] != "(":
            wanted = [stored(kinds[0], each) for each in next(self._marked())]
        elif len(names) > 1 or operator == "IN":
            self._take("(")
            wanted = []
            while not wanted or self._skip(","):
                wanted.append(self._value(kinds[len(wanted) % len(kinds)]))
            self._take(")")
        else:
            wanted = self._value(kinds[0])
            if equal is not None and operator == "=":
                equal[names[0]] = wanted
        compare, single = _OPERATORS[operator], len(names) == 1
        return lambda row: compare(
            row[names[0]] if single else [row[name] for name in names], wanted
        )

    def _using(self) -> int:
        time_us, self._tables.ttls[self._table] = self._tables.now_us(), None
        if self._skip("USING"):
            while True:
                option, value = self._name(), self._value("bigint")
                if option == "TTL":
                    self._tables.ttls[self._table] = value
                else:
                    time_us = value
                if not self._skip("AND"):
                    break
        return time_us

    def _names(self) -> list[str]:
        self._take("(")
        names = [self._name()]
        while self._skip(","):
            names.append(self._name())
        self._take(")")
        return names

    def _value(self, kind: str) -> Any:
        return stored(kind, self._literal())

    def _marked(self) -> Iterator[Any]:
        self._at += 1
        return self._values

    def _literal(self) -> Any:
        word = self.words[self._at]
        if word in ("?", "%s"):
            return next(self._marked())
        self._at += 1
        if word == "{":  # a set or a map
            items: list[Any] = []
            while not self._skip("}"):
                item = self._literal()
                items.append((item, self._literal()) if self._skip(":") else item)
                self._skip(",")
            return dict(items) if items and isinstance(items[0], tuple) else set(items)
        if word.startswith("'"):
            return word[1:-1].replace("''", "'")
        if re.fullmatch(_UUID, word):
            return UUID(word)
        constants = {"null": None, "true": True, "false": False}
        if word.lower() in constants:
            return constants[word.lower()]
        return float(word) if "." in word else int(word)

    def _name(self) -> str:
        self._at += 1
        return self.words[self._at - 1]

    def _skip(self, word: str) -> bool:
        found = self._at < len(self.words) and self.words[self._at] == word
        self._at += found
        return found

    def _take(self, *words: str) -> None:
        for word in words:
            assert self._skip(word), (word, self.words[self._at :], self.words)


def _read(kind: str, value: Any) -> Any:
    """A stored value as the driver returns it."""
    if value is None:
        return None
    if "map<" in kind:
        of = kind.rpartition(", ")[2].rstrip(">")
        return {key: _read(of, each) for key, each in value.items()}
    if kind == "timestamp":
        return datetime(1970, 1, 1) + timedelta(milliseconds=value)
    return value


def _cosine(one: Sequence[float] | None, other: Sequence[float]) -> float:
    if one is None:
        return -1.0
    return float(np.dot(one, other) / (np.linalg.norm(one) * np.linalg.norm(other)))
