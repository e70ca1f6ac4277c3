"""Deletes a user's rows from all tables, so that no replay brings them back (docs/privacy.md).

Tables that list the keys of others are deleted last: an erasure that is killed finds everything
again when it is repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC
from typing import Any, NamedTuple

from cassandra.cluster import Session
from cassandra.query import Statement

from liveprofile.privacy.export import held_tables
from liveprofile.privacy.places import HeldTable
from liveprofile.privacy.user_keys import UserKeys, read_user_keys
from liveprofile.storage.cql import from_ms, prepare, read_pages, write_all
from liveprofile.units import HOUR_MS

# Their rows have the times of windows: those that begin before an erasure may end after it.
WINDOW_TABLES = frozenset(
    {
        "user_profile",
        "profile_delta",
        "replaced_delta",
        "user_lookalike",
        "later_sums",
        "risk_flag",
        "risk_flag_by_day",
        "user_segment",
        "segment_member",
        "segment_change",
    }
)
LISTS_OF_KEYS = ("risk_score_hours", "risk_flag", "risk_case", "user_segment", "segment_change")
# The proof that a consent was given is kept as long as its limit says.
KEPT = {"user_consent": "proof of consents", "erasure": "proof of erasures"}
NOT_REACHED = (
    "state of the job, checkpoints and savepoints",
    "topics of Kafka",
    "training rows, plans, exports and models",
    "logs, backups and receivers",
)
HOURS = "risk_score_hours"
_NAMING = ("user_id", "alert_id", "flag_id", "target")  # columns that name a user or a flag
_COLLECTIONS = ("set<", "list<", "map<")


class Erasure(NamedTuple):
    """What was deleted of one user."""

    rows: dict[str, int]  # by table
    pending: dict[str, int]  # rows that are there again, or may not be deleted yet, by table


class Cut(NamedTuple):
    """The time of an erasure: what is older is deleted, what is later stays."""

    before_ms: int
    window_ms: int  # length of a window

    def limit_us(self, table: str) -> int:
        """The write time up to which rows of the table are deleted."""
        later_ms = self.window_ms if table in WINDOW_TABLES else 0
        return (self.before_ms + later_ms) * 1_000 - 1

    def nothing_later(self, now_us: int) -> bool:
        """Whether no later window has ended: newer rows are of clients whose clock is ahead."""
        return now_us < (self.before_ms + self.window_ms) * 1_000


def erasure_order(names: list[str]) -> list[str]:
    """Which tables are erased, and in which order."""
    last = [name for name in LISTS_OF_KEYS if name in names]
    return [name for name in names if name not in (*LISTS_OF_KEYS, *KEPT)] + last


def erase_user(
    session: Session,
    user_id: str,
    in_flight: int,
    now_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
    write: Callable[[Session, Iterable[Statement], int], int] = write_all,
    cut: Cut | None = None,
    shared: SharedRows | None = None,
) -> Erasure:
    """Deletes the user's rows and looks for what is left. Repeat it after a failure.

    Each deletion has the time of the cut, or of the newest cell if that is later and no later
    window can have ended, so it also hides later writes about the time before. Without a cut it has
    the time of now. The list of hours keeps the hour that is not over: repeat the erasure after it.
    shared: of several users; None: tables without a key of the user are read as a whole. Raises
    ServiceError.
    """
    tables = held_tables(session)
    at_us = now_us()
    keys = read_user_keys(session, user_id) if shared is None else shared.keys[user_id]
    if cut is not None:  # a worker that does not know of the erasure yet may still write here
        keys = keys.with_hour(from_ms(cut.before_ms))
    limits = _Limits(at_us, cut)
    rows: dict[str, int] = {}
    for name in erasure_order(list(tables)):
        cells = _cells(session, name, tables[name], keys, shared)
        rows[name], deletions = _deletions(session, name, tables[name], keys, limits, cells)
        write(session, deletions, in_flight)
    pending = {
        name: sum(
            1 for cell in _cells(session, name, tables[name], keys) if limits.counts(name, cell)
        )
        for name in rows
        if shared is None or tables[name].belongs is None
    }
    return Erasure(
        {name: count for name, count in rows.items() if count},
        {name: count for name, count in pending.items() if count},
    )


class Cell(NamedTuple):
    """A row as far as its deletion needs it."""

    where: str  # selects what is deleted with it, with the values of its marks
    values: tuple[Any, ...]
    time_us: int  # of its newest cell; 0: the table has only a key


class _Limits(NamedTuple):
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


def _deletions(
    session: Session,
    name: str,
    held: HeldTable,
    keys: UserKeys,
    limits: _Limits,
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
        where: prepare(session, f"DELETE FROM {name} USING TIMESTAMP ? WHERE {where}")
        for where in {where for where, _ in latest_us}
    }
    for statement in prepared.values():
        statement.is_idempotent = True
    deletions = (
        prepared[where].bind((time_us, *values)) for (where, values), time_us in latest_us.items()
    )
    return rows, deletions


def _is_over(session: Session, key: tuple[Any, ...], limits: _Limits) -> bool:
    """Whether an hour has ended and has no later events, which its deletion would hide."""
    if _end_us(key[-1]) > limits.now_us:
        return False
    if _end_us(key[-1]) <= limits.of(HOURS):
        return True
    query = "SELECT event_id FROM risk_score_by_hour WHERE user_id = ? AND hour = ?"
    return not any(True for _ in read_pages(session, prepare(session, query), key))


def _end_us(hour: Any) -> int:
    """The last microsecond of an hour, with which its row is written."""
    start_ms = round(hour.replace(tzinfo=UTC).timestamp() * 1_000)
    return (start_ms + HOUR_MS) * 1_000 - 1


class SharedRows(NamedTuple):
    """The rows of several users in the tables that are read as a whole."""

    keys: dict[str, UserKeys]
    cells: dict[str, dict[str, list[Cell]]]  # by table and user


def read_shared_rows(session: Session, user_ids: Iterable[str]) -> SharedRows:
    """Reads each of these tables once. Raises ServiceError."""
    keys = {user_id: read_user_keys(session, user_id) for user_id in user_ids}
    by_flag = {flag_id: each for each in keys.values() for flag_id in each.flag_ids}
    cells: dict[str, dict[str, list[Cell]]] = {}
    for name, held in held_tables(session).items():
        if held.belongs is None or name in KEPT:
            continue
        of_users = cells.setdefault(name, {})
        for row, cell in read_rows(session, name, held, "", ()):
            texts = {getattr(row, column, None) or "" for column in _NAMING}
            texts |= {text.rpartition(" ")[0] for text in texts}  # a user and a rule
            for each in {keys.get(text) for text in texts} | {by_flag.get(text) for text in texts}:
                if each is not None and held.belongs(row, each):
                    of_users.setdefault(each.user_id, []).append(cell)
    return SharedRows(keys, cells)


def _cells(
    session: Session,
    name: str,
    held: HeldTable,
    keys: UserKeys,
    shared: SharedRows | None = None,
) -> Iterator[Cell]:
    """The user's rows of a table. Raises ServiceError."""
    if shared is not None and held.belongs is not None:
        yield from shared.cells[name].get(keys.user_id, ())
        return
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
    others = [column for column in ("user_id", "target") if column in timed]  # `belongs` reads them
    selected = [*primary, *others]
    selected += [f"WRITETIME({column}) AS written_{index}" for index, column in enumerate(timed)]
    single_row = held.shares_partitions or name == HOURS
    own = primary if single_row else partition
    query = f"SELECT {', '.join(selected)} FROM {name}"
    prepared = prepare(session, f"{query} WHERE {where}" if where else query)
    for row in read_pages(session, prepared, values):
        times = (getattr(row, f"written_{index}") for index in range(len(timed)))
        place, marks = where, values
        if held.belongs is not None or single_row:
            place = " AND ".join(f"{column} = ?" for column in own)
            marks = tuple(getattr(row, column) for column in own)
        yield row, Cell(place, marks, max((each for each in times if each), default=0))


def _metadata(session: Session, name: str) -> Any:
    return session.cluster.metadata.keyspaces[session.keyspace].tables[name]
