"""A Cassandra session in memory: the statements of the product run on rows of the real schema.

It executes SELECT, INSERT, UPDATE, DELETE and conditional batches as schemas/cassandra.cql declares
the tables: keys, clustering order, static columns. Of two writes of a cell the one with the later
time stays. Rows do not expire: `ttls` has the TTL of each write.
"""

from __future__ import annotations

import re
import threading
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from itertools import count
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
from cassandra import DriverException
from cassandra.metadata import Murmur3Token
from cassandra.query import BatchStatement
from cassandra.util import Date

from liveprofile.rows import TABLES

Row = dict[str, Any]
Check = Callable[[Row], bool]
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


class Cell(NamedTuple):
    value: Any
    time_us: int


class Rows(list):
    """A result as the driver's ResultSet."""

    paging_state = None
    was_applied = True

    @property
    def current_rows(self) -> Rows:
        return self

    def one(self) -> Any:
        return self[0] if self else None


class Future:
    """An answer as the driver's ResponseFuture; it is there at once, or after `delay_s`."""

    has_more_pages, _col_names, _col_types, _paging_state = False, (), (), None

    def __init__(self, answer: Callable[[], Rows], delay_s: float):
        self._answer, self._delay_s = answer, delay_s

    def add_callbacks(
        self,
        callback: Callable[..., Any],
        errback: Callable[..., Any],
        callback_args: Sequence[Any] = (),
        errback_args: Sequence[Any] = (),
    ) -> None:
        def settle() -> None:
            try:
                rows = self._answer()
            except DriverException as error:
                errback(error, *errback_args)
            else:
                callback(rows, *callback_args)

        if self._delay_s:
            timer = threading.Timer(self._delay_s, settle)
            timer.daemon = True
            timer.start()
        else:
            settle()

    def clear_callbacks(self) -> None: ...


class Text(str):
    """The text of a statement, which a batch keeps, with its values."""

    values: Sequence[Any] = ()


class Prepared:
    custom_payload, keyspace, routing_key = None, None, None

    def __init__(self, query: str):
        self.query_string = Text(query)

    def bind(self, values: Sequence[Any]) -> Prepared:
        bound = Prepared(self.query_string)
        bound.query_string.values = tuple(values)
        return bound


class MemoryCassandra:
    """`fail`: raised by every statement if set. `delay_s`: of what is read on the event loop."""

    keyspace = "liveprofile"

    def __init__(self) -> None:
        self.cells: dict[str, dict[tuple, dict[str, Cell]]] = {name: {} for name in TABLES}
        self.statics: dict[str, dict[tuple, dict[str, Cell]]] = {name: {} for name in TABLES}
        self.ttls: dict[str, int | None] = {}  # of the last write of each table
        self.deletions: dict[str, list[tuple[Check, int]]] = {name: [] for name in TABLES}
        self.reads: list[str] = []  # tables, one for each SELECT
        self.prepared: list[str] = []
        self.fail: Exception | None = None
        self.delay_s = 0.0
        self._clock_us = count(1)
        self._lock = threading.RLock()

    def stop_answering(self) -> None:
        self.fail = DriverException("no node answers")

    def put(self, table: str, *rows: Row, time_us: int = 0) -> None:
        """Inserts rows with values as statements take them. Time 0: any write replaces them."""
        with self._lock:
            for row in rows:
                stored = {name: _stored(_type(table, name), v) for name, v in row.items()}
                self._write(table, stored, time_us)

    def rows(self, table: str) -> list[Row]:
        """Stored rows in the order of a SELECT: times are epoch milliseconds."""
        with self._lock:
            return list(self._ordered(table))

    def prepare(self, query: str) -> Prepared:
        self.prepared.append(query)
        return Prepared(query)

    def execution_profile_clone_update(self, *_: Any, **__: Any) -> str:
        return "tuples"

    def execute_async(self, query: Any, values: Any = None, **_: Any) -> Future:
        return Future(lambda: self.execute(query, values), self.delay_s)

    def execute(self, query: Any, values: Any = None, **_: Any) -> Rows:
        if self.fail is not None:
            raise self.fail
        # The driver would write a list of an unprepared statement's enum.
        if isinstance(query, str) and any(isinstance(value, Enum) for value in values or ()):
            raise TypeError(f"an enum in {values}")
        with self._lock:
            if isinstance(query, BatchStatement):
                texts = [text for _, text, _ in query._statements_and_parameters]
            else:
                texts = [query if isinstance(query, str) else query.query_string]
            statements = [
                _Statement(self, text, values or getattr(text, "values", ())) for text in texts
            ]
            if statements[0].words[0] == "SELECT":
                return statements[0].select()
            writes = [statement.write() for statement in statements]
            applied = Rows()
            applied.was_applied = all(holds for holds, _ in writes)
            if applied.was_applied:
                for _, write in writes:
                    write()
            return applied

    def _now_us(self) -> int:
        return next(self._clock_us)

    def _key(self, table: str, row: Row) -> tuple[tuple, tuple]:
        about = TABLES[table]
        return (
            tuple(row.get(name) for name in about.partition_key),
            tuple(row.get(name) for name in about.clustering),
        )

    def _write(self, table: str, row: Row, time_us: int) -> None:
        about, (partition, rest) = TABLES[table], self._key(table, row)
        whole = dict.fromkeys(about.columns) | row
        if any(
            0 < time_us <= deleted_us and hides(whole)
            for hides, deleted_us in self.deletions[table]
        ):
            return
        for name, value in row.items():
            is_static = about.columns[name].cql.endswith(" static")
            place = self.statics[table].setdefault(partition, {}) if is_static else None
            if place is None and None not in rest:
                place = self.cells[table].setdefault((partition, rest), {})
            if place is not None and (name not in place or place[name].time_us <= time_us):
                place[name] = Cell(value, time_us)

    def _ordered(self, table: str) -> Iterator[Row]:
        about, keyed = TABLES[table], {}
        for partition, static in self.statics[table].items():
            keyed.setdefault(partition, {})
            keyed[partition][None] = static
        for (partition, rest), cells in self.cells[table].items():
            keyed.setdefault(partition, {})[rest] = cells
        for partition in sorted(keyed, key=_token):
            static = keyed[partition].pop(None, {})
            rests = list(keyed[partition])
            for at, direction in reversed([*enumerate(about.clustering.values())]):
                rests.sort(key=lambda rest: _comparable(rest[at]), reverse=direction == "DESC")
            names = dict.fromkeys(about.columns)
            for rest in rests:
                cells = static | keyed[partition][rest]
                yield names | {name: cell.value for name, cell in cells.items()} | {"": cells}
            if static and not rests:
                values = {name: cell.value for name, cell in static.items()}
                keys = dict(zip(about.partition_key, partition, strict=True))
                yield names | keys | values | {"": static}


class _Statement:
    """One statement, read from its text from left to right, as its values are."""

    def __init__(self, session: MemoryCassandra, text: str, values: Iterable[Any]):
        self._session, self.words = session, _TOKEN.findall(text)
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
        self._session.reads.append(table)
        if keyspace.startswith("system"):
            return Rows([("local",)] if table == "local" else [])
        check, most = self._where(), None
        rows = [row for row in self._session._ordered(table) if check(row)]
        if self._skip("ORDER"):
            self._take("BY")
            column = self._name()
            if self._skip("ANN"):
                self._take("OF")
                near = self._value("vector")
                rows.sort(key=lambda row: -_cosine(row[column], near))
            else:
                rows.sort(key=lambda row: row[column], reverse=self._name() == "DESC")
        if self._skip("PER"):  # PARTITION LIMIT, which no test reaches
            self._at += 3
        if self._skip("LIMIT"):
            most = self._value("int")
        kind = namedtuple("Row", [name for name, _ in items], rename=True)
        found = [kind(*(read(row) for _, read in items)) for row in rows]
        if distinct:
            found = list(dict.fromkeys(found))
        return Rows(found[:most])

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
            row[name] = self._value(_type(table, name))
            self._skip(",")
        self._take(")")
        holds = True
        if self._skip("IF"):
            self._take("NOT", "EXISTS")
            partition, rest = self._session._key(table, row)
            holds = (partition, rest) not in self._session.cells[table]
        time_us = self._using()
        return holds, lambda: self._session._write(table, row, time_us)

    def _update(self) -> tuple[bool, Callable[[], None]]:
        table = self._table = self._name().rpartition(".")[2]
        time_us = self._using()
        self._take("SET")
        row = {}
        while not row or self._skip(","):
            name = self._name()
            self._take("=")
            row[name] = self._value(_type(table, name))
        keys: Row = {}
        check = self._where(keys)
        holds = True
        if self._skip("IF"):
            found = next(filter(check, self._session._ordered(table)), dict.fromkeys(row))
            holds = self._conditions()(dict.fromkeys(TABLES[table].columns) | found)
        return holds, lambda: self._session._write(table, row | keys, time_us)

    def _delete(self) -> tuple[bool, Callable[[], None]]:
        self._take("FROM")
        table = self._table = self._name().rpartition(".")[2]
        session, keys = self._session, {}
        time_us, check = self._using(), self._where(keys)

        def delete() -> None:
            session.deletions[table].append((check, time_us))
            for row in list(filter(check, session._ordered(table))):
                partition, rest = session._key(table, row)
                places = [(session.cells[table], (partition, rest))]
                if keys.keys() <= set(TABLES[table].partition_key):
                    places.append((session.statics[table], partition))
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
                "token": lambda row: _token((row[column],)),
            }
            read = reads[function]
        else:
            column = name

            def read(row: Row) -> Any:
                return _read(_type(self._table, column), row[column])

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
                limit = _token((self._value("text"),))
                self._take(")")
            else:
                limit = self._value("bigint")
            compare = _OPERATORS[operator]
            return lambda row: compare(_token(tuple(row[name] for name in names)), limit)
        kinds = [_type(self._table, name) for name in names]
        if operator == "CONTAINS":
            wanted = self._value("text")
        elif operator == "IN" and self.words[self._at] != "(":
            wanted = [_stored(kinds[0], each) for each in next(self._marked())]
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
        time_us, self._session.ttls[self._table] = self._session._now_us(), None
        if self._skip("USING"):
            while True:
                option, value = self._name(), self._value("bigint")
                if option == "TTL":
                    self._session.ttls[self._table] = value
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
        return _stored(kind, self._literal())

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


def _type(table: str, column: str) -> str:
    return TABLES[table].columns[column].cql.removesuffix(" static")


def _stored(kind: str, value: Any) -> Any:
    """A value as rows hold it: times as epoch milliseconds."""
    if value is None:
        return None
    if "map<" in kind:
        of = kind.rpartition(", ")[2].rstrip(">")
        return {key: _stored(of, each) for key, each in value.items()} or None
    if "set<" in kind:
        return frozenset(value) or None
    if kind.startswith("vector"):
        return list(value)
    if kind == "timestamp" and isinstance(value, datetime):
        return round(value.replace(tzinfo=value.tzinfo or UTC).timestamp() * 1_000)
    if kind == "date":
        return value if isinstance(value, Date) else Date(value)
    return value


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


def _token(partition: tuple) -> int:
    text = "\0".join(map(str, partition))
    return Murmur3Token.hash_fn(text.encode())


def _comparable(value: Any) -> Any:
    return value.time if isinstance(value, UUID) else value


def _cosine(one: Sequence[float] | None, other: Sequence[float]) -> float:
    if one is None:
        return -1.0
    return float(np.dot(one, other) / (np.linalg.norm(one) * np.linalg.norm(other)))
