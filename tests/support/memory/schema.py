"""A keyspace in memory that understands the statements of migrations and their records."""

import re
import threading
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, Self

from cassandra import InvalidRequest

Values = tuple[Any, ...]
_PARTS = re.compile(r",(?![^<(]*[>)])")  # not inside a type or a key


def columns_after(statements: Iterable[str]) -> dict[str, set[str]]:
    """The columns of each table after CREATE, ALTER and DROP statements.

    Raises KeyError for a table that does not exist.
    """
    found: dict[str, set[str]] = {}
    for text in (" ".join(statement.split()) for statement in statements):
        kind = " ".join(text.split()[:2])
        if kind not in ("CREATE TABLE", "ALTER TABLE", "DROP TABLE"):
            continue
        table, rest = re.search(r"\.(\w+)(.*)", text).groups()
        body = re.search(r"\((.*)\)", rest.split(" WITH ")[0])
        names = {part.split()[0] for part in _PARTS.split(body[1])} if body else set()
        if kind == "CREATE TABLE":
            found.setdefault(table, names - {"PRIMARY"})
        elif kind == "DROP TABLE":
            found.pop(table, None)
        elif rest.startswith(" ADD "):
            found[table] |= names
        elif rest.startswith(" DROP "):
            found[table] -= names
    return found


class MemorySchema:
    """A Session as far as migrations need it. Statements of several threads take turns.

    `ddl`: the statements that change tables, with the owner of the lock at that time. `before` is
    called before each of them and may raise.
    """

    keyspace = "shop"

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.ddl: list[tuple[str, str | None]] = []
        self.records: dict[int, Any] = {}
        self.unknown_reads = 0  # reads of the records that fail, as of a table that is just created
        self.owner: str | None = None
        self.before: Callable[[str], None] = lambda statement: None
        self._turn = threading.Lock()

    def columns(self) -> dict[str, set[str]]:
        """What the keyspace has, without the table of the records."""
        found = columns_after(self.statements)
        found.pop("schema_migration", None)
        return found

    def execute(self, query: Any, values: Values | None = None, **options: Any) -> Any:
        text = " ".join(getattr(query, "query_string", query).split())
        with self._turn:
            if text.startswith(("CREATE", "ALTER", "DROP")):
                return self._change(text)
            if text.startswith("SELECT table_name, column_name"):
                return [
                    SimpleNamespace(table_name=name, column_name=column)
                    for name, columns in columns_after(self.statements).items()
                    for column in columns
                ]
            if text.startswith("SELECT number") and self.unknown_reads:
                self.unknown_reads -= 1
                raise InvalidRequest("table schema_migration does not exist")
            if text.startswith("SELECT number"):
                return [self.records[number] for number in sorted(self.records)]
            if text.startswith("INSERT"):
                _, number, *rest = values
                self.records[number] = Record(number, *rest)
                return None
            return self._transaction(text, values or ())

    def _change(self, text: str) -> None:
        self.before(text)
        try:
            columns_after([*self.statements, text])
        except KeyError as missing:
            raise InvalidRequest(f"table {missing} does not exist") from None
        self.statements.append(text)
        self.ddl.append((text, self.owner))

    def _transaction(self, text: str, values: Values) -> Any:
        applied = self.owner == values[-1]
        if applied:
            self.owner = None if text.startswith("DELETE lock_owner") else values[0]
        holder = SimpleNamespace(lock_owner=self.owner)
        return SimpleNamespace(was_applied=applied, one=lambda: holder)


class Record(tuple):
    """A row with attributes, as the driver returns it."""

    def __new__(cls, *values: Any) -> Self:
        return super().__new__(cls, values)

    number = property(lambda self: self[0])
    applied_at = property(lambda self: self[3])
