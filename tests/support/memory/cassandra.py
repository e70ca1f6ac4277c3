"""A keyspace in memory that understands the SELECT and DELETE statements of an erasure."""

from __future__ import annotations

import re
import threading
from types import SimpleNamespace
from typing import Any, NamedTuple

from liveprofile.settings import CassandraSettings
from liveprofile.storage.schema import schema_statements

Row = dict[str, Any]


class Bound(NamedTuple):
    """A prepared statement with its values."""

    query: str
    values: tuple[Any, ...]


class Prepared:
    def __init__(self, query: str):
        self.query = query
        self.is_idempotent = False

    def bind(self, values: tuple[Any, ...]) -> Bound:
        return Bound(self.query, tuple(values))


class MemoryKeyspace:
    """A Session as far as an erasure needs it. All columns of a row have one write time.

    `rows`: by table, with the write time in the column "". A deletion hides later writes of
    its range that have no later time. Several threads may use it.
    """

    keyspace = "liveprofile"

    def __init__(self) -> None:
        tables = {name: each for name, each in _tables()}
        self.rows: dict[str, list[Row]] = {name: [] for name in tables}
        self.reads: list[str] = []  # tables, one for each SELECT
        self.prepared: list[str] = []  # queries
        self._lock = threading.RLock()
        self._deletions: dict[str, list[tuple[Row, int]]] = {name: [] for name in tables}
        keyspace = SimpleNamespace(tables=tables)
        self.cluster = SimpleNamespace(
            metadata=SimpleNamespace(keyspaces={self.keyspace: keyspace})
        )

    def tables(self) -> dict[str, Any]:
        return self.cluster.metadata.keyspaces[self.keyspace].tables

    def insert(self, table: str, row: Row, time_us: int) -> None:
        with self._lock:
            self._insert(table, row, time_us)

    def _insert(self, table: str, row: Row, time_us: int) -> None:
        for place, deleted_us in self._deletions[table]:
            if time_us <= deleted_us and place.items() <= row.items():
                return
        primary = [column.name for column in self.tables()[table].primary_key]
        key = [row[name] for name in primary]
        kept = [each for each in self.rows[table] if [each[name] for name in primary] != key]
        self.rows[table] = [*kept, {**row, "": time_us}]

    def prepare(self, query: str) -> Prepared:
        self.prepared.append(query)
        return Prepared(query)

    def execute(self, statement: Prepared, values: Any, **options: Any) -> SimpleNamespace:
        match = re.fullmatch(r"SELECT (.+) FROM (\w+)(?: WHERE (.+))?", statement.query)
        assert match, statement.query
        self.reads.append(match[2])
        place = _place(match[3], values or ())
        names = [part.split(" AS ")[-1] for part in match[1].split(", ")]
        rows = [
            SimpleNamespace(
                **{name: row[""] if name.startswith("written_") else row[name] for name in names}
            )
            for row in self.rows[match[2]]
            if place.items() <= row.items()
        ]
        return SimpleNamespace(current_rows=rows, paging_state=None)

    def delete(self, statement: Bound) -> None:
        pattern = r"DELETE FROM (\w+) USING TIMESTAMP \? WHERE (.+)"
        match = re.fullmatch(pattern, statement.query)
        assert match, statement.query
        table, (time_us, *values) = match[1], statement.values
        place = _place(match[2], values)
        with self._lock:
            self._deletions[table].append((place, time_us))
            self.rows[table] = [
                row
                for row in self.rows[table]
                if row[""] > time_us or not place.items() <= row.items()
            ]


def _place(where: str | None, values: Any) -> Row:
    names = re.findall(r"(\w+) = \?", where or "")
    return dict(zip(names, values, strict=True))


def _tables() -> list[tuple[str, Any]]:
    """The tables of schemas/cassandra.cql with the attributes of the driver's metadata."""
    found = []
    for statement in schema_statements(CassandraSettings(), embedding_dim=1):
        create = re.match(
            r"CREATE TABLE IF NOT EXISTS \w+\.(\w+) \((.*?)\n\)", statement, re.DOTALL
        )
        if create is None:
            continue
        body = create[2]
        columns = {
            name: SimpleNamespace(name=name, cql_type=cql_type)
            for name, cql_type in re.findall(
                r"^\s*(\w+) ([a-z][\w<>, ]*?)(?: static| PRIMARY KEY)?,?\s*$", body, re.MULTILINE
            )
        }
        partition, clustering = _key(body)
        about = SimpleNamespace(
            columns=columns,
            partition_key=[columns[name] for name in partition],
            primary_key=[columns[name] for name in (*partition, *clustering)],
        )
        found.append((create[1], about))
    return found


def _key(body: str) -> tuple[list[str], list[str]]:
    """The columns of the partition key, and those after them in the primary key."""
    if inline := re.search(r"(\w+) \w+ PRIMARY KEY", body):
        return [inline[1]], []
    key = re.search(r"PRIMARY KEY \((?:\(([^)]*)\)|(\w+))(?:, (.*))?\)", body)
    assert key, body
    return re.findall(r"\w+", key[1] or key[2]), re.findall(r"\w+", key[3] or "")
