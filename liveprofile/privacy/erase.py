"""What deletes a user's rows, so that no replay brings them back (docs/privacy.md).

erase_users.py carries erasures out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC
from typing import Any, NamedTuple

from cassandra.cluster import Session
from cassandra.query import Statement

from liveprofile.events.window_times import end_ms, stagger_offset_ms
from liveprofile.privacy.places import HeldTable
from liveprofile.privacy.user_keys import UserKeys
from liveprofile.rows import TABLES
from liveprofile.settings import WindowSettings
from liveprofile.storage.cql import prepare_once, read_pages
from liveprofile.units import HOUR_MS, SECOND_MS

_USERS = {name: each.users for name, each in TABLES.items() if each.users is not None}
# Their rows have the times of windows: those that begin before an erasure may end after it.
WINDOW_TABLES = frozenset(name for name, each in _USERS.items() if each.of_windows)
LISTS_OF_KEYS = tuple(name for name, each in _USERS.items() if each.lists_keys)
# The proof that a consent was given is kept as long as its limit says.
KEPT = {name: each.kept for name, each in _USERS.items() if each.kept}
NOT_REACHED = (
    "state of the job, checkpoints and savepoints",
    "topics of Kafka",
    "training rows, plans, exports and models",
    "logs, backups and receivers",
)
HOURS = "risk_score_hours"
# Not of the key, but read: they tell whose a row is, and of which window.
_READ = ("user_id", "target", "window_end")
_COLLECTIONS = ("set<", "list<", "map<")


class Erasure(NamedTuple):
    """What was deleted of one user."""

    rows: dict[str, int]  # by table
    pending: dict[str, int]  # rows that are there again, or may not be deleted yet, by table


class Cut(NamedTuple):
    """The time of an erasure: what is older is deleted, what is later stays."""

    before_ms: int
    window_ms: int  # length of a window
    last_end_ms: int  # of the user's last window that begins before the erasure

    @classmethod
    def of(cls, user_id: str, before_ms: int, window: WindowSettings) -> Cut:
        offset_ms = stagger_offset_ms(user_id, window)
        return cls(before_ms, window.length_ms, end_ms(before_ms - 1, offset_ms, window))

    def limit_us(self, table: str) -> int:
        """The write time up to which rows of the table are deleted."""
        before_us = self.before_ms * 1_000
        if table not in WINDOW_TABLES:
            return before_us - 1
        # Write times have the revision in the second after the window's end, and windows of a user
        # end at least a second apart. The other limit holds if windows were staggered otherwise.
        return max(before_us + self.window_ms * 1_000, (self.last_end_ms + SECOND_MS) * 1_000) - 1

    def nothing_later(self, now_us: int) -> bool:
        """Whether no later window has ended: newer rows are of clients whose clock is ahead."""
        return now_us < (self.before_ms + self.window_ms) * 1_000


class Cell(NamedTuple):
    """A row as far as its deletion needs it."""

    where: str  # selects what is deleted with it, with the values of its marks
    values: tuple[Any, ...]
    time_us: int  # of its newest cell; 0: the table has only a key


class Limits(NamedTuple):
    """Up to which write times rows are deleted."""

    now_us: int
    cut: Cut | None

    def of(self, table: str) -> int:
        return self.now_us if self.cut is None else self.cut.limit_us(table)

    def deletion_us(self, table: str, cell: Cell) -> int:
        """The time of the deletion of a row."""
        if self.cut is None or self.cut.nothing_later(self.now_us):
            return max(self.of(table), cell.time_us)
        return self.of(table)

    def counts(self, table: str, cell: Cell) -> bool:
        """Whether a row is one that the erasure deletes."""
        if self.cut is None or self.cut.nothing_later(self.now_us):
            return True
        if table == HOURS:
            return _end_us(cell.values[-1]) > self.now_us
        return 0 < cell.time_us <= self.of(table)


def deletions_of(
    session: Session,
    name: str,
    held: HeldTable,
    keys: UserKeys,
    limits: Limits,
    cells: Iterable[Cell],
) -> tuple[int, Iterator[Statement]]:
    """The number of the user's rows of a table, and the statements that delete them.

    Partitions and ranges are deleted as a whole, with one time: rows that a replay writes later are
    hidden too.
    """
    rows, at_us = 0, limits.of(name)
    latest_us: dict[tuple[str, tuple[Any, ...]], int] = {}
    if held.belongs is None and name != HOURS:
        # Also without a row: a window that is under way may write one.
        latest_us = dict.fromkeys(held.conditions(keys), at_us)
    for cell in cells:
        place = (cell.where, cell.values)
        if name != HOURS:
            rows += 1 if limits.cut is None or cell.time_us <= limits.deletion_us(name, cell) else 0
            latest_us[place] = max(latest_us.get(place, at_us), limits.deletion_us(name, cell))
        elif _is_over(session, cell.values, limits):
            rows += 1
            latest_us[place] = max(at_us, _end_us(cell.values[-1]))
    prepared = {
        where: prepare_once(session, f"DELETE FROM {name} USING TIMESTAMP ? WHERE {where}")
        for where in {where for where, _ in latest_us}
    }
    for statement in prepared.values():
        statement.is_idempotent = True
    deletions = (
        prepared[where].bind((time_us, *values)) for (where, values), time_us in latest_us.items()
    )
    return rows, deletions


def _is_over(session: Session, key: tuple[Any, ...], limits: Limits) -> bool:
    """Whether an hour has ended and has no later events, which its deletion would hide."""
    if _end_us(key[-1]) > limits.now_us:
        return False
    if _end_us(key[-1]) <= limits.of(HOURS):
        return True
    query = "SELECT event_id FROM risk_score_by_hour WHERE user_id = ? AND hour = ?"
    return not any(True for _ in read_pages(session, prepare_once(session, query), key))


def _end_us(hour: Any) -> int:
    """The last microsecond of an hour, with which its row is written."""
    start_ms = round(hour.replace(tzinfo=UTC).timestamp() * 1_000)
    return (start_ms + HOUR_MS) * 1_000 - 1


def cells_of(session: Session, name: str, held: HeldTable, keys: UserKeys) -> Iterator[Cell]:
    """The user's rows of a table. Raises ServiceError."""
    for where, values in held.conditions(keys):
        for row, cell in read_rows(session, name, held, where, values):
            if held.belongs is None or held.belongs(row, keys):
                yield cell


def read_rows(
    session: Session, name: str, held: HeldTable, where: str, values: tuple[Any, ...]
) -> Iterator[tuple[Any, Cell]]:
    """Rows of a table, each with what its deletion needs. Raises ServiceError.

    where, values: one of the conditions of `held`.
    """
    table = _metadata(session, name)
    primary = [column.name for column in table.primary_key]
    partition = [column.name for column in table.partition_key]
    timed = [
        column
        for column, about in table.columns.items()
        if column not in primary and not about.cql_type.startswith(_COLLECTIONS)
    ]
    others = [column for column in _READ if column in timed]
    selected = [*primary, *others]
    selected += [f"WRITETIME({column}) AS written_{index}" for index, column in enumerate(timed)]
    single_row = held.shares_partitions or name == HOURS
    own = primary if single_row else partition
    query = f"SELECT {', '.join(selected)} FROM {name}"
    prepared = prepare_once(session, f"{query} WHERE {where}" if where else query)
    for row in read_pages(session, prepared, values):
        times = (getattr(row, f"written_{index}") for index in range(len(timed)))
        place, marks = where, values
        if held.belongs is not None or single_row:
            place = " AND ".join(f"{column} = ?" for column in own)
            marks = tuple(getattr(row, column) for column in own)
        yield row, Cell(place, marks, max((each for each in times if each), default=0))


def _metadata(session: Session, name: str) -> Any:
    return session.cluster.metadata.keyspaces[session.keyspace].tables[name]
