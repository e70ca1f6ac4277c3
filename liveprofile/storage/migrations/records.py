"""The table schema_migration: which migrations a keyspace has, and the lock of who changes it."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from cassandra import ConsistencyLevel
from cassandra.cluster import ResultSet, Session
from cassandra.query import SimpleStatement

from liveprofile import __version__
from liveprofile.errors import ServiceError, ServiceUnavailableError
from liveprofile.retry import until_deadline
from liveprofile.rows.operations import SCHEMA_MIGRATION
from liveprofile.storage.cql import execute, now_ms
from liveprofile.storage.migrations.files import Migration
from liveprofile.storage.migrations.plan import Applied

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
        self._require(
            f"UPDATE {self._table} USING TTL {LOCK_TTL_S} SET lock_owner = %s"
            " WHERE scope = %s IF lock_owner = %s",
            (self._owner, SCOPE, self._owner),
        )

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
            batch=True,
        )

    def remove(self, migration: Migration) -> None:
        """Removes the record of a migration, while the lock is held. Raises ServiceError."""
        self._require(
            f"DELETE FROM {self._table} WHERE scope = %s AND number = %s",
            (SCOPE, migration.number),
            batch=True,
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

    def _require(self, statement: str, values: Sequence[Any], batch: bool = False) -> None:
        """Executes a statement that is applied only while the lock is held."""
        if batch:
            renewal = (
                f"UPDATE {self._table} USING TTL {LOCK_TTL_S} SET lock_owner = %s"
                " WHERE scope = %s IF lock_owner = %s"
            )
            statement = f"BEGIN BATCH {renewal}; {statement}; APPLY BATCH"
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
