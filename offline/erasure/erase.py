"""Deletes the rows of users from all tables, so that no replay brings them back (docs/privacy.md).

Tables that list the keys of others are deleted last: an erasure that is killed finds everything
again when it is repeated. Tables without a key of the user are read as a whole, once for all users,
and again until a read finds nothing, because others may write rows about the users meanwhile.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self

from cassandra.cluster import Session
from cassandra.query import Statement

from liveprofile.events.window_times import end_ms, stagger_offset_ms
from liveprofile.privacy.places import (
    TABLES,
    UserKeys,
    conditions,
    is_theirs,
    read_user_keys,
)
from liveprofile.rows.table import Table
from liveprofile.settings import WindowSettings
from liveprofile.storage.cql import from_ms, prepare, read_pages, to_ms, write_all
from liveprofile.units import HOUR_MS, SECOND_MS

# Their rows have the times of windows: those that begin before an erasure may end after it.
WINDOW_TABLES = frozenset(name for name, each in TABLES.items() if each.users.of_windows)
# The proof that a consent was given is kept as long as its limit says.
KEPT = {name: each.users.kept for name, each in TABLES.items() if each.users.kept}
# The tables of an erasure in their order: those without a key of the user come second, those that
# list the keys of others last.
_ERASED = {name: each for name, each in TABLES.items() if name not in KEPT}
WHOLE = {name: each for name, each in _ERASED.items() if each.users.read_whole}
LISTS = {name: each for name, each in _ERASED.items() if each.users.lists_keys}
OWN = {name: each for name, each in _ERASED.items() if name not in WHOLE | LISTS}
HOURS = "risk_score_hours"
AT_ONCE = 8  # users
MAX_READS = 4  # of a whole table; what the last one finds is deleted, and pending
# Not of the key, but read: they tell whose a row is, and of which window.
_READ = ("user_id", "target", "window_end")
_NAMING = ("user_id", "alert_id", "flag_id", "target")  # columns that name a user or a flag
# Cassandra stores a cell for each element, with a time of its own.
_COLLECTIONS = ("set<", "list<", "map<")

Write = Callable[[Session, Iterable[Statement]], int]


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
    def of(cls, user_id: str, before_ms: int, window: WindowSettings) -> Self:
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


class Cell(NamedTuple):
    """A row as far as its deletion needs it."""

    where: str  # selects what is deleted with it, with the values of its marks
    values: tuple[Any, ...]
    time_us: int  # of its newest cell; 0: the table has only a key
    about: Any = None  # the column `about` of its table


class _User(NamedTuple):
    keys: UserKeys
    now_us: int
    cut: Cut
    rows: Counter[str]  # deleted, by table

    @property
    def takes_all(self) -> bool:
        """Whether no later window has ended: newer rows are of clients whose clock is ahead."""
        return self.now_us < (self.cut.before_ms + self.cut.window_ms) * 1_000

    def takes(self, table: str, cell: Cell) -> bool:
        """Whether the erasure deletes a row: by when it was written, or by what it is about."""
        written_before = 0 < cell.time_us <= self.cut.limit_us(table)
        return self.takes_all or written_before or self._about_ms(cell.about) < self.cut.before_ms

    def _about_ms(self, about: Any) -> float:
        """The start of the window, or the time of the event, that a row derives from."""
        flags = self.keys.flags
        match about:
            case datetime():
                return to_ms(about)
            case str():
                return flags.get(about, math.inf)
            case Mapping():  # an alert that is newer than the keys has the end of its window
                window_ms = self.cut.window_ms
                times_ms = (flags.get(each, to_ms(end) - window_ms) for each, end in about.items())
                return min(times_ms, default=math.inf)
        return math.inf

    def left(self, table: str, cells: Iterable[Cell]) -> int:
        """How many of the rows the erasure deletes."""
        if table == HOURS and not self.takes_all:
            return sum(_end_us(cell.values[-1]) > self.now_us for cell in cells)
        return sum(self.takes(table, cell) for cell in cells)


def erase_users(
    session: Session,
    cuts: Mapping[str, Cut],
    now_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
    write: Write = write_all,
) -> Iterator[tuple[str, Erasure]]:
    """Deletes the rows of up to some hundred users; yields each user when all is done.

    Each deletion has the time of the user's cut, or of the newest cell if that is later and no
    later window can have ended, so it also hides later writes about the time before. The list of
    hours keeps the hour that is not over: repeat the erasure after it. Repeat it after a failure,
    too. Raises ServiceError.
    """
    pool = ThreadPoolExecutor(AT_ONCE)

    def begin(user_id: str) -> _User:
        cut = cuts[user_id]
        # A worker that does not know of the erasure yet may still write into this hour.
        keys = read_user_keys(session, user_id).with_hour(from_ms(cut.before_ms))
        user = _User(keys, now_us(), cut, Counter())
        erase(user, OWN)
        return user

    def erase(user: _User, tables: Mapping[str, Table]) -> None:
        for name, table in tables.items():
            delete(user, name, _cells_of(session, table, user.keys))

    def delete(user: _User, name: str, cells: Iterable[Cell]) -> None:
        rows, deletions = _deletions(session, name, user, cells)
        write(session, deletions)
        user.rows[name] += rows

    def end(user: _User) -> dict[str, int]:
        erase(user, LISTS)
        left = {}
        for name, table in (OWN | LISTS).items():
            count = user.left(name, _cells_of(session, table, user.keys))
            if count:
                left[name] = count
        return left

    try:
        users = dict(zip(cuts, pool.map(begin, cuts), strict=True))
        unread: dict[str, dict[str, int]] = {}  # found by the last read, by user and table
        for _ in range(MAX_READS if users else 0):
            unread = {}
            for name, user, cells in list(_read_whole(session, users)):
                delete(user, name, cells)
                if left := user.left(name, cells):
                    unread.setdefault(user.keys.user_id, {})[name] = left
            if not unread:
                break
        for user_id, pending in zip(cuts, pool.map(end, users.values()), strict=True):
            rows = {name: count for name, count in users[user_id].rows.items() if count}
            yield user_id, Erasure(rows, pending | unread.get(user_id, {}))
    finally:
        pool.shutdown(cancel_futures=True)


def _deletions(
    session: Session, name: str, user: _User, cells: Iterable[Cell]
) -> tuple[int, Iterator[Statement]]:
    """The number of the user's rows of a table, and the statements that delete them.

    Partitions and ranges are deleted as a whole, with one time: rows that a replay writes later are
    hidden too.
    """
    rows, at_us = 0, user.cut.limit_us(name)
    latest_us: dict[tuple[str, tuple[Any, ...]], int] = {}
    if not TABLES[name].users.read_whole and name != HOURS:
        # Also without a row: a window that is under way may write one.
        latest_us = dict.fromkeys(conditions(TABLES[name], user.keys), at_us)
    for cell in cells:
        place = (cell.where, cell.values)
        if name != HOURS:
            time_us = max(at_us, cell.time_us) if user.takes(name, cell) else at_us
            rows += cell.time_us <= time_us
            latest_us[place] = max(latest_us.get(place, at_us), time_us)
        elif _is_over(session, cell.values, user):
            rows += 1
            latest_us[place] = max(at_us, _end_us(cell.values[-1]))
    return rows, (
        delete_statement(session, name, where, time_us, values)
        for (where, values), time_us in latest_us.items()
    )


def delete_statement(
    session: Session, table: str, where: str, time_us: int, values: tuple[Any, ...]
) -> Statement:
    """A deletion that may be repeated."""
    statement = prepare(session, f"DELETE FROM {table} USING TIMESTAMP ? WHERE {where}")
    statement.is_idempotent = True
    return statement.bind((time_us, *values))


def _is_over(session: Session, key: tuple[Any, ...], user: _User) -> bool:
    """Whether an hour has ended and has no later events, which its deletion would hide."""
    if _end_us(key[-1]) > user.now_us:
        return False
    if _end_us(key[-1]) <= user.cut.limit_us(HOURS):
        return True
    query = "SELECT event_id FROM risk_score_by_hour WHERE user_id = ? AND hour = ?"
    return not any(True for _ in read_pages(session, prepare(session, query), key))


def _end_us(hour: Any) -> int:
    """The last microsecond of an hour, with which its row is written."""
    start_ms = round(hour.replace(tzinfo=UTC).timestamp() * 1_000)
    return (start_ms + HOUR_MS) * 1_000 - 1


def _cells_of(session: Session, table: Table, keys: UserKeys) -> Iterator[Cell]:
    """The user's rows of a table that has a key of the user. Raises ServiceError."""
    for where, values in conditions(table, keys):
        for _, cell in read_rows(session, table, where, values):
            yield cell


def read_rows(
    session: Session, table: Table, where: str, values: tuple[Any, ...], single: bool = False
) -> Iterator[tuple[Any, Cell]]:
    """Rows of a table, each with what its deletion needs. Raises ServiceError.

    where, values: one of its `conditions`. single: a row is deleted alone, not with its partition.
    """
    timed = [
        name
        for name, column in table.columns.items()
        if name not in table.key and not column.cql.startswith(_COLLECTIONS)
    ]
    selected = [*table.key, *(name for name in _READ if name in timed)]
    if (about := table.users.about) and about not in selected:
        selected.append(about)
    selected += [f"WRITETIME({name}) AS written_{index}" for index, name in enumerate(timed)]
    single = single or table.users.row_by_row or table.name == HOURS
    own = table.key if single else table.partition_key
    query = f"SELECT {', '.join(selected)} FROM {table.name}"
    prepared = prepare(session, f"{query} WHERE {where}" if where else query)
    for row in read_pages(session, prepared, values):
        times = (getattr(row, f"written_{index}") for index in range(len(timed)))
        place, marks = where, values
        if table.users.read_whole or single:
            place = " AND ".join(f"{name} = ?" for name in own)
            marks = tuple(getattr(row, name) for name in own)
        time_us = max((each for each in times if each), default=0)
        yield row, Cell(place, marks, time_us, getattr(row, about) if about else None)


def _read_whole(
    session: Session, users: Mapping[str, _User]
) -> Iterator[tuple[str, _User, list[Cell]]]:
    """The users' rows of tables that are read as a whole: table, user, rows.

    Raises ServiceError.
    """
    by_flag = {flag_id: user for user in users.values() for flag_id in user.keys.flags}
    for name, table in WHOLE.items():
        found: dict[str, list[Cell]] = {}
        for row, cell in read_rows(session, table, "", ()):
            texts = {getattr(row, column, None) or "" for column in _NAMING}
            texts |= {text.rpartition(" ")[0] for text in texts}  # a user and a rule
            found_by = [of[text] for text in texts for of in (users, by_flag) if text in of]
            named = {each.keys.user_id for each in found_by}
            for user_id in named:
                if is_theirs(table, row, users[user_id].keys):
                    found.setdefault(user_id, []).append(cell)
        for user_id, cells in found.items():
            yield name, users[user_id], cells
