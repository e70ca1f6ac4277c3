"""The table erasure: for each erased user, whether the tables are clear."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import orjson
from cassandra.cluster import Session

from liveprofile.rows.users import ERASURE
from liveprofile.storage.cql import (
    execute_per_key,
    from_ms,
    prepare,
    prepare_once,
    read_pages,
    to_ms,
    write_all,
)

# In place of numbers of rows: the erasure was asked for and not carried out yet.
REQUESTED = {"all tables": 1}
_COLUMNS = "before, deleted_at, remaining"


class Deletion(NamedTuple):
    """The last run over the tables of a user."""

    before_ms: int  # the erasure that was carried out
    deleted_ms: int  # when
    remaining: dict[str, int]  # rows that could not be deleted yet, by table


def is_done(deletion: Deletion | None, before_ms: int) -> bool:
    """Whether the tables are clear of what is older than the erasure."""
    return deletion is not None and deletion.before_ms >= before_ms and not deletion.remaining


def write_deletion(session: Session, user_id: str, deletion: Deletion, ttl_s: int) -> None:
    """Raises ServiceError."""
    insert = prepare_once(session, ERASURE.insert(ttl_s))
    insert.is_idempotent = True
    values = (
        user_id,
        from_ms(deletion.before_ms),
        from_ms(deletion.deleted_ms),
        orjson.dumps(deletion.remaining).decode(),
        deletion.deleted_ms * 1_000,
    )
    write_all(session, [insert.bind(values)])


def read_deletions(session: Session, user_ids: Iterable[str]) -> dict[str, Deletion]:
    """The last run of each user who has one. Raises ServiceError."""
    select = f"SELECT {_COLUMNS} FROM erasure WHERE user_id = ?"
    return {
        user_id: _deletion(row)
        for user_id, rows in execute_per_key(session, select, user_ids).items()
        for row in rows
    }


def scan_deletions(session: Session) -> dict[str, Deletion]:
    """The last run of all users. Raises ServiceError."""
    select = prepare(session, f"SELECT {_COLUMNS}, user_id FROM erasure")
    return {row[3]: _deletion(row) for row in read_pages(session, select)}


def _deletion(row: tuple) -> Deletion:
    return Deletion(to_ms(row[0]), to_ms(row[1]), orjson.loads(row[2]))
