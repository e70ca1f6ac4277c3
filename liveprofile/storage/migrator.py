"""Applies and reverts migrations, under a lock in the table schema_migration.

Each statement may be repeated, so a run that failed is resumed by the next one.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from cassandra import ConsistencyLevel
from cassandra.cluster import ResultSet, Session
from cassandra.query import SimpleStatement

from liveprofile import __version__
from liveprofile.errors import InputError, ServiceError, ServiceUnavailableError
from liveprofile.retry import until_deadline
from liveprofile.rows import TABLES
from liveprofile.rows.operations import SCHEMA_MIGRATION
from liveprofile.storage.cql import execute, now_ms, read
from liveprofile.storage.migrations import (
    Applied,
    Migration,
    Step,
    compare,
    filled,
    read_migrations,
    to_apply,
    to_revert,
)

STATEMENT_TIMEOUT_S = 60
# Rows are written with the time of their window or event, by a producer's clock. Cassandra 5.0.6
# fails to read a partition with a cell of a dropped column whose write time is after the drop. So a
# column is dropped as of an hour from now: longer than limits.max_clock_skew_ms should ever be.
DROP_MARGIN_US = 3_600_000_000
TABLE = SCHEMA_MIGRATION.name
SCOPE = "tables"
# After it, `setup` repeats the statements, which change nothing, and writes the record again.
RECORD_TTL_S = 5 * 365 * 86_400
LOCK_TTL_S = 180  # a statement takes at most 60 s
_RENEWAL_S = 45
_POLL_S = 0.5


def _is_being_created(error: BaseException) -> bool:
    """Whether system_schema has the table and the node does not know it yet, for an instant."""
    return f"table {TABLE} does not exist" in str(error)


class MigrationRecords:
    """The records of one keyspace, and its lock.

    The lock is a lightweight transaction: two processes never hold it at once. One that dies loses
    it after LOCK_TTL_S.
    """

    def __init__(
        self,
        session: Session,
        keyspace: str,
        sleep: Callable[[float], None] = time.sleep,
        clock_s: Callable[[], float] = time.monotonic,
    ):
        self._session, self._keyspace, self._table = session, keyspace, f"{keyspace}.{TABLE}"
        self._sleep, self._clock_s = sleep, clock_s
        self._held_s = 0.0  # when the lock was acquired or renewed, by clock_s
        self._owner = f"{socket.gethostname()}, process {os.getpid()}, {uuid.uuid4().hex[:8]}"

    def read(self) -> list[Applied]:
        """The records, by number. The table exists. Raises ServiceError."""
        query = (
            f"SELECT number, name, checksum, applied_at, version FROM {self._table}"
            " WHERE scope = %s"
        )
        rows = until_deadline(
            lambda: execute(self._session, query, (SCOPE,)),
            is_retryable=lambda error: (
                isinstance(error, ServiceUnavailableError) or _is_being_created(error)
            ),
        )
        # Without records, the row of a lock has no number.
        return [
            Applied(*row)._replace(applied_at=row.applied_at.replace(tzinfo=UTC))
            for row in rows
            if row.number is not None
        ]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Context manager that holds the lock.

        Waits for another holder. Raises ServiceError if it holds the lock for longer than it may
        without a renewal, twice.
        """
        self._acquire()
        try:
            yield
        except BaseException:
            with suppress(ServiceError):  # the first error counts, and the lock ends by itself
                self._release()
            raise
        self._release()

    def renew(self) -> None:
        """Holds the lock for long enough to execute a statement.

        Raises ServiceError if another process has it.
        """
        if self._clock_s() < self._held_s + _RENEWAL_S:
            return
        self._require()

    def add(self, migration: Migration) -> None:
        """Records a migration, while the lock is held. Raises ServiceError."""
        self._require(
            SCHEMA_MIGRATION.insert(
                RECORD_TTL_S, self._keyspace, time="", without=("lock_owner",), mark="%s"
            ),
            (
                SCOPE,
                migration.number,
                migration.name,
                migration.checksum,
                datetime.fromtimestamp(now_ms() / 1_000, UTC),
                __version__,
            ),
        )

    def remove(self, migration: Migration) -> None:
        """Removes the record of a migration, while the lock is held. Raises ServiceError."""
        self._require(
            f"DELETE FROM {self._table} WHERE scope = %s AND number = %s",
            (SCOPE, migration.number),
        )

    def _acquire(self) -> None:
        deadline_s = self._clock_s() + 2 * LOCK_TTL_S
        while True:
            sent_s = self._clock_s()
            result = self._conditional(
                f"UPDATE {self._table} USING TTL {LOCK_TTL_S} SET lock_owner = %s"
                " WHERE scope = %s IF lock_owner = null",
                (self._owner, SCOPE),
            )
            self._held_s = sent_s
            # A transaction that was sent twice has been applied the first time.
            if result.was_applied or (holder := result.one().lock_owner) == self._owner:
                return
            if self._clock_s() > deadline_s:
                raise ServiceError(
                    f"{self._table} is locked by another `liveprofile job setup` ({holder}). If"
                    f" that process is dead, the lock ends {LOCK_TTL_S} s after its last statement"
                )
            self._sleep(_POLL_S)

    def _release(self) -> None:
        self._conditional(
            f"DELETE lock_owner FROM {self._table} WHERE scope = %s IF lock_owner = %s",
            (SCOPE, self._owner),
        )

    def _require(self, statement: str = "", values: Sequence[Any] = ()) -> None:
        """Renews the lock, and executes a statement in one batch with that."""
        renewal = (
            f"UPDATE {self._table} USING TTL {LOCK_TTL_S} SET lock_owner = %s"
            " WHERE scope = %s IF lock_owner = %s"
        )
        statement = f"BEGIN BATCH {renewal}; {statement}; APPLY BATCH" if statement else renewal
        values = (self._owner, SCOPE, self._owner, *values)
        sent_s = self._clock_s()
        result = self._conditional(statement, values)
        self._held_s = sent_s
        if not result.was_applied:
            raise ServiceError(
                f"another process has taken the lock of {self._table}, because this one was stopped"
                f" for more than {LOCK_TTL_S} s: run the command again"
            )

    def _conditional(self, statement: str, values: Sequence[Any]) -> ResultSet:
        # SERIAL, not LOCAL_SERIAL: tables are changed in all data centres.
        query = SimpleStatement(statement, serial_consistency_level=ConsistencyLevel.SERIAL)
        return until_deadline(lambda: execute(self._session, query, values))


class Migrator:
    """The migrations of one keyspace.

    values: for the places of statements, among them `keyspace`. declared: the columns that each
    table should have at the end, by default those of this version. Raises ServiceError for
    everything that Cassandra refuses.
    """

    def __init__(
        self,
        session: Session,
        values: Mapping[str, str],
        migrations: Sequence[Migration] | None = None,
        records: MigrationRecords | None = None,
        declared: Mapping[str, Iterable[str]] | None = None,
    ):
        self._session, self._values = session, dict(values)
        self._keyspace = values["keyspace"]
        self._migrations = read_migrations() if migrations is None else migrations
        self._declared = {each.name: each.columns for each in TABLES.values()}
        if declared is not None:
            self._declared = declared
        self._records = records or MigrationRecords(session, self._keyspace)

    def steps(self) -> list[Step]:
        """What the keyspace has of the migrations. Raises ConfigError for an edited migration."""
        columns = self._columns()
        applied = self._records.read() if TABLE in columns else []
        return compare(self._migrations, applied, columns, self._declared)

    def apply(self, contract: bool = False) -> list[str]:
        """Applies what is pending, and returns the titles. contract: also what waits.

        Raises InputError if a table that is to be dropped has rows.
        """
        if not to_apply(self.steps(), contract):
            return []
        with self.locked():
            wanted = to_apply(self.steps(), contract)
            for migration in wanted:
                if migration.contract in self._columns():
                    self._require_empty(migration)
                self._run(migration, migration.up, "setup")
                self._records.add(migration)
        return [migration.title for migration in wanted]

    def revert(self, to: int | None = None, dry_run: bool = False) -> list[Migration]:
        """Undoes the migrations after the number `to`, or the last one, and returns them.

        Raises InputError if one of them cannot be undone. dry_run: changes nothing.
        """
        wanted = to_revert(self.steps(), to)
        if dry_run or not wanted:
            return wanted
        with self.locked():
            wanted = to_revert(self.steps(), to)
            for migration in wanted:
                command = f"migrations revert --to {wanted[-1].number - 1} --yes"
                self._run(migration, migration.down, command)
                self._records.remove(migration)
        return wanted

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Context manager that keeps other processes from changing the tables."""
        self._execute(*SCHEMA_MIGRATION.create())
        with self._records.locked():
            yield

    def _run(self, migration: Migration, statements: Sequence[str], command: str) -> None:
        for number, statement in enumerate(statements, 1):
            self._records.renew()
            try:
                self._execute(statement)
            except ServiceError as error:
                raise ServiceError(
                    f"migration {migration.title}, statement {number} of {len(statements)}"
                    f" (`{_first_line(statement)}`): {error}. The statements before it are in"
                    f" force. Remove the cause and run `liveprofile {command}` again: it goes on"
                    " with this migration"
                ) from None

    def _require_empty(self, migration: Migration) -> None:
        table = f"{self._keyspace}.{migration.contract}"
        if read(self._session, f"SELECT * FROM {table} LIMIT 1").one() is not None:
            raise InputError(
                f"migration {migration.title} would drop {table}, which still has rows: wait until"
                " they have expired, or delete them with TRUNCATE"
            )

    def _execute(self, statement: str) -> None:
        values = self._values | {"drop_us": str(now_ms() * 1_000 + DROP_MARGIN_US)}
        execute(self._session, filled(statement, values), timeout=STATEMENT_TIMEOUT_S)

    def _columns(self) -> dict[str, list[str]]:
        """The columns of each table of the keyspace, as Cassandra has them now."""
        rows = read(
            self._session,
            "SELECT table_name, column_name FROM system_schema.columns WHERE keyspace_name = %s",
            (self._keyspace,),
        )
        found: dict[str, list[str]] = {}
        for row in rows:
            found.setdefault(row.table_name, []).append(row.column_name)
        return found


def _first_line(statement: str) -> str:
    return " ".join(statement.split("(\n")[0].split())
