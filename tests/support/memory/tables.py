"""Rows in memory as Cassandra keeps them: keys, clustering order, static columns, write times.

Of two writes of a cell the one with the later time stays. Rows do not expire: `ttls` has the TTL of
each write.
"""

import functools
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from typing import Any, NamedTuple
from uuid import UUID

from cassandra.metadata import Murmur3Token
from cassandra.util import Date

from liveprofile.rows import TABLES

Row = dict[str, Any]
Check = Callable[[Row], bool]


class Cell(NamedTuple):
    value: Any
    time_us: int


class MemoryTables:
    """All tables of liveprofile.rows."""

    def __init__(self) -> None:
        self.cells: dict[str, dict[tuple, dict[str, Cell]]] = {name: {} for name in TABLES}
        self.statics: dict[str, dict[tuple, dict[str, Cell]]] = {name: {} for name in TABLES}
        self.ttls: dict[str, int | None] = {}  # of the last write of each table
        self.deletions: dict[str, list[tuple[Check, int]]] = {name: [] for name in TABLES}
        self.reads: list[str] = []  # tables, one for each SELECT
        self._clock_us = count(1)
        self._lock = threading.RLock()

    def put(self, table: str, *rows: Row, time_us: int = 0) -> None:
        """Inserts rows with values as statements take them. Time 0: any write replaces them."""
        with self._lock:
            for row in rows:
                values = {name: stored(type_of(table, name), v) for name, v in row.items()}
                self.write(table, values, time_us)

    def rows(self, table: str) -> list[Row]:
        """Stored rows in the order of a SELECT: times are epoch milliseconds."""
        with self._lock:
            return list(self.ordered(table))

    def now_us(self) -> int:
        return next(self._clock_us)

    def key_of(self, table: str, row: Row) -> tuple[tuple, tuple]:
        about = TABLES[table]
        return (
            tuple(row.get(name) for name in about.partition_key),
            tuple(row.get(name) for name in about.clustering),
        )

    def write(self, table: str, row: Row, time_us: int) -> None:
        about, (partition, rest) = TABLES[table], self.key_of(table, row)
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

    def ordered(self, table: str, only: tuple | None = None) -> Iterator[Row]:
        """The rows of a table, or those of one partition only."""
        about, keyed = TABLES[table], {}
        for partition, static in self.statics[table].items():
            if only is None or partition == only:
                keyed.setdefault(partition, {})[None] = static
        for (partition, rest), cells in self.cells[table].items():
            if only is None or partition == only:
                keyed.setdefault(partition, {})[rest] = cells
        for partition in sorted(keyed, key=token_of):
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


@functools.cache
def type_of(table: str, column: str) -> str:
    return TABLES[table].columns[column].cql.removesuffix(" static")


def stored(kind: str, value: Any) -> Any:
    """A value as rows hold it: times as epoch milliseconds."""
    if value is None:
        return None
    if "map<" in kind:
        of = kind.rpartition(", ")[2].rstrip(">")
        return {key: stored(of, each) for key, each in value.items()} or None
    if "set<" in kind:
        return frozenset(value) or None
    if kind.startswith("vector"):
        return list(value)
    if kind == "timestamp" and isinstance(value, datetime):
        return round(value.replace(tzinfo=value.tzinfo or UTC).timestamp() * 1_000)
    if kind == "date":
        return value if isinstance(value, Date) else Date(value)
    return value


@functools.cache
def token_of(partition: tuple) -> int:
    text = "\0".join(map(str, partition))
    return Murmur3Token.hash_fn(text.encode())


def _comparable(value: Any) -> Any:
    return value.time if isinstance(value, UUID) else value
