"""Deletes the rows of users from all tables, several users at a time (docs/privacy.md).

Tables that list the keys of others are deleted last: an erasure that is killed finds everything
again when it is repeated. Tables without a key of the user are read as a whole, once for all users,
and again until a read finds nothing, because others may write rows about the users meanwhile.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from cassandra.cluster import Session
from cassandra.query import Statement

from liveprofile.privacy.erase import (
    KEPT,
    LISTS_OF_KEYS,
    Cell,
    Cut,
    Erasure,
    Limits,
    cells_of,
    deletions_of,
    read_rows,
)
from liveprofile.privacy.places import TABLES, HeldTable
from liveprofile.privacy.user_keys import UserKeys, read_user_keys
from liveprofile.storage.cql import from_ms, write_all

AT_ONCE = 8  # users
MAX_READS = 4  # of a whole table; what the last one finds is deleted, and pending
_NAMING = ("user_id", "alert_id", "flag_id", "target")  # columns that name a user or a flag

Write = Callable[[Session, Iterable[Statement]], int]


class _User(NamedTuple):
    keys: UserKeys
    limits: Limits
    rows: Counter[str]  # deleted, by table


class ErasedTables(NamedTuple):
    """The tables of an erasure in their order."""

    own: dict[str, HeldTable]
    whole: dict[str, HeldTable]  # without a key of the user
    lists: dict[str, HeldTable]  # of the keys of others

    @classmethod
    def of(cls) -> ErasedTables:
        held = {name: each for name, each in TABLES.items() if name not in KEPT}
        whole = {name: each for name, each in held.items() if each.belongs is not None}
        lists = {name: held[name] for name in LISTS_OF_KEYS if name in held}
        own = {name: each for name, each in held.items() if name not in whole | lists}
        return cls(own, whole, lists)


def erase_users(
    session: Session,
    cuts: Mapping[str, Cut | None],
    now_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
    write: Write = write_all,
) -> Iterator[tuple[str, Erasure]]:
    """Deletes the rows of up to some hundred users; yields each user when all is done.

    Each deletion has the time of the user's cut, or of the newest cell if that is later and no
    later window can have ended, so it also hides later writes about the time before. Without a cut
    it has the time of now. The list of hours keeps the hour that is not over: repeat the erasure
    after it. Repeat it after a failure, too. Raises ServiceError.
    """
    tables = ErasedTables.of()
    pool = ThreadPoolExecutor(AT_ONCE)

    def begin(user_id: str) -> _User:
        keys, cut = read_user_keys(session, user_id), cuts[user_id]
        if cut is not None:  # a worker that does not know of the erasure yet may still write here
            keys = keys.with_hour(from_ms(cut.before_ms))
        user = _User(keys, Limits(now_us(), cut), Counter())
        erase(user, tables.own)
        return user

    def erase(user: _User, held: Mapping[str, HeldTable]) -> None:
        for name, each in held.items():
            delete(user, name, each, cells_of(session, name, each, user.keys))

    def delete(user: _User, name: str, held: HeldTable, cells: Iterable[Cell]) -> None:
        rows, deletions = deletions_of(session, name, held, user.keys, user.limits, cells)
        write(session, deletions)
        user.rows[name] += rows

    def end(user: _User) -> dict[str, int]:
        erase(user, tables.lists)
        return {
            name: count
            for name, each in (tables.own | tables.lists).items()
            if (count := _left(user, name, cells_of(session, name, each, user.keys)))
        }

    try:
        users = dict(zip(cuts, pool.map(begin, cuts), strict=True))
        unread: dict[str, dict[str, int]] = {}  # found by the last read, by user and table
        for _ in range(MAX_READS if users else 0):
            unread = {}
            for name, of_users in _read_whole(session, tables.whole, users).items():
                for user_id, cells in of_users.items():
                    user = users[user_id]
                    delete(user, name, tables.whole[name], cells)
                    if left := _left(user, name, cells):
                        unread.setdefault(user_id, {})[name] = left
            if not unread:
                break
        for user_id, pending in zip(cuts, pool.map(end, users.values()), strict=True):
            rows = {name: count for name, count in users[user_id].rows.items() if count}
            yield user_id, Erasure(rows, pending | unread.get(user_id, {}))
    finally:
        pool.shutdown(cancel_futures=True)


def _left(user: _User, name: str, cells: Iterable[Cell]) -> int:
    """How many of the rows the erasure deletes."""
    return sum(1 for cell in cells if user.limits.counts(name, cell))


def _read_whole(
    session: Session, tables: Mapping[str, HeldTable], users: Mapping[str, _User]
) -> dict[str, dict[str, list[Cell]]]:
    """The users' rows of tables that are read as a whole, by table and user.

    Raises ServiceError.
    """
    keys = {user_id: user.keys for user_id, user in users.items()}
    by_flag = {flag_id: each for each in keys.values() for flag_id in each.flag_ids}
    found: dict[str, dict[str, list[Cell]]] = {}
    for name, held in tables.items():
        of_users = found.setdefault(name, {})
        for row, cell in read_rows(session, name, held, "", ()):
            texts = {getattr(row, column, None) or "" for column in _NAMING}
            texts |= {text.rpartition(" ")[0] for text in texts}  # a user and a rule
            for each in {keys.get(text) for text in texts} | {by_flag.get(text) for text in texts}:
                if each is not None and held.belongs is not None and held.belongs(row, each):
                    of_users.setdefault(each.user_id, []).append(cell)
    return found
