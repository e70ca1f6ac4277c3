"""Moves the flags of a keyspace of an earlier version to tables whose key has the event id.

Cassandra cannot change a primary key, so the rows are copied to another table and back. Every step
may be repeated: after an interruption the next call goes on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cassandra.cluster import EXEC_PROFILE_DEFAULT, Session
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.query import SimpleStatement, dict_factory

from liveprofile.errors import ServiceError

TABLES = ("risk_flag", "risk_flag_by_day")
COPY_SUFFIX = "_copy"
_TIMEOUT_S = 60


def flags_need_migration(session: Session, keyspace: str) -> bool:
    """Whether a table of flags has the key of an earlier version, or a copy is left of a move."""
    return any(
        not _has_present_key(session, keyspace, table)
        or _columns(session, keyspace, f"{table}{COPY_SUFFIX}")
        for table in TABLES
    )


def migrate_flags(session: Session, keyspace: str, statements: Sequence[str]) -> bool:
    """Gives the tables of flags their present key. Returns whether a table was created anew.

    statements: those of schemas/cassandra.cql, which have been executed. No job of an earlier
    version may run; one of this version waits (`check_flag_key`). Raises the driver's errors.
    """
    migrated = False
    for table in TABLES:
        copy = f"{table}{COPY_SUFFIX}"
        if not _has_present_key(session, keyspace, table):
            session.execute(_create(statements, table, copy), timeout=_TIMEOUT_S)
            _copy_rows(session, keyspace, table, copy)
            session.execute(f"DROP TABLE {keyspace}.{table}", timeout=_TIMEOUT_S)
        elif not _columns(session, keyspace, copy):
            continue
        session.execute(_create(statements, table, table), timeout=_TIMEOUT_S)
        _copy_rows(session, keyspace, copy, table)
        session.execute(f"DROP TABLE {keyspace}.{copy}", timeout=_TIMEOUT_S)
        migrated = True
    return migrated


def _create(statements: Sequence[str], table: str, name: str) -> str:
    """Returns the CREATE TABLE statement of a table, for a table with another name."""
    [statement] = (text for text in statements if re.match(rf"CREATE TABLE.*\.{table} \(", text))
    return statement.replace(f".{table} (", f".{name} (", 1)


def check_flag_key(session: Session, keyspace: str) -> None:
    """Raises ServiceError if a table of flags is missing or not migrated yet."""
    for table in TABLES:
        if not _has_present_key(session, keyspace, table):
            raise ServiceError(
                f"keyspace {keyspace} has no table {table} with the key of this version:"
                " `liveprofile job submit` creates or migrates it"
            )


def _has_present_key(session: Session, keyspace: str, table: str) -> bool:
    return _columns(session, keyspace, table).get("event_id") == "clustering"


def _columns(session: Session, keyspace: str, table: str) -> dict[str, str]:
    """Returns the kind of each column of a table: regular, clustering, ...; {} without a table."""
    rows = session.execute(
        "SELECT column_name, kind FROM system_schema.columns"
        " WHERE keyspace_name = %s AND table_name = %s",
        (keyspace, table),
    )
    return {row.column_name: row.kind for row in rows}


def _copy_rows(session: Session, keyspace: str, source: str, target: str) -> None:
    """Copies all rows with their write times and the rest of their time to live."""
    names = sorted(_columns(session, keyspace, source))
    marks = ", ".join("?" * len(names))
    insert = session.prepare(
        f"INSERT INTO {keyspace}.{target} ({', '.join(names)}) VALUES ({marks})"
        " USING TIMESTAMP ? AND TTL ?"
    )
    select = SimpleStatement(
        f"SELECT {', '.join(names)}, WRITETIME(reason) AS written_us, TTL(reason) AS ttl_s"
        f" FROM {keyspace}.{source}",
        fetch_size=500,
    )
    profile = session.execution_profile_clone_update(EXEC_PROFILE_DEFAULT, row_factory=dict_factory)
    rows = session.execute(select, execution_profile=profile, timeout=_TIMEOUT_S)
    values = (
        # Windows' flags of the first versions have no event id.
        [row[name] if name != "event_id" else row[name] or "" for name in names]
        + [row["written_us"], row["ttl_s"] or 0]
        for row in rows
    )
    execute_concurrent_with_args(session, insert, values, concurrency=32)
