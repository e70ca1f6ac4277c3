"""Numbered changes of the keyspace, one for each file of schemas/migrations.

Each statement may be repeated, so a run that failed is resumed by the next one. One process at a
time applies them, under a lock in the table schema_migration.
"""

import hashlib
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from cassandra import ConsistencyLevel
from cassandra.cluster import ResultSet, Session
from cassandra.query import SimpleStatement

from liveprofile import __version__
from liveprofile.errors import ConfigError, ServiceError, ServiceUnavailableError
from liveprofile.resources import ROOT
from liveprofile.retry import until_deadline
from liveprofile.rows import TABLES
from liveprofile.rows.operations import SCHEMA_MIGRATION
from liveprofile.storage.cql import execute, now_ms, read

FOLDER = ROOT / "schemas" / "migrations"
STATEMENT_TIMEOUT_S = 60
TABLE = SCHEMA_MIGRATION.name
SCOPE = "tables"
# After it, `setup` repeats the statements, which change nothing, and writes the record again.
RECORD_TTL_S = 5 * 365 * 86_400
LOCK_TTL_S = 180  # it is renewed before each statement
_POLL_S = 0.5
_FILE = re.compile(r"(\d{4})_(\w+)\.cql")


class Migration(NamedTuple):
    """A migration. Statements have the places {keyspace} and {dim}."""

    number: int
    name: str
    statements: tuple[str, ...]

    @property
    def title(self) -> str:
        """Number and name, such as 0002_scores_by_hour."""
        return f"{self.number:04}_{self.name}"

    @property
    def checksum(self) -> str:
        """SHA-256 of the statements without comments; white space does not count."""
        text = ";".join(" ".join(statement.split()) for statement in self.statements)
        return hashlib.sha256(text.encode()).hexdigest()


class Applied(NamedTuple):
    """The record of a migration that was applied."""

    number: int
    name: str
    checksum: str
    applied_at: datetime  # wall clock, UTC
    version: str  # of Liveprofile


def read_migrations(folder: Path = FOLDER) -> list[Migration]:
    """The migrations of the folder in their order.

    Raises ValueError for a file that is no migration, and if a number is missing or occurs twice:
    the folder is part of the program.
    """
    found = []
    for number, file in enumerate(sorted(folder.glob("*.cql")), 1):
        named = _FILE.fullmatch(file.name)
        if named is None or int(named[1]) != number:
            raise ValueError(f"{file}: not {number:04}_name.cql")
        code = "\n".join(line.split("--")[0] for line in file.read_text("utf-8").splitlines())
        statements = (statement.strip() for statement in code.split(";"))
        found.append(Migration(number, named[2], tuple(filter(None, statements))))
    return found


def filled(statement: str, values: Mapping[str, str]) -> str:
    """A statement with values for its places, such as {keyspace}."""
    for name, value in values.items():
        statement = statement.replace("{" + name + "}", value)
    return statement


class Migrator:
    """The migrations of one keyspace.

    values: for the places of statements, among them `keyspace`. declared: the columns that each
    table should have at the end. Raises ServiceError for everything that Cassandra refuses.
    """

    def __init__(
        self,
        session: Session,
        values: Mapping[str, str],
        migrations: Sequence[Migration] | None = None,
        declared: Mapping[str, Iterable[str]] | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ):
        self._session, self._values, self._clock_s = session, values, clock_s
        self._keyspace = values["keyspace"]
        self._table = f"{self._keyspace}.{TABLE}"
        self._migrations = read_migrations() if migrations is None else migrations
        all_columns = {each.name: each.columns for each in TABLES.values()}
        self._declared = all_columns if declared is None else declared
        self._owner = f"{socket.gethostname()}, process {os.getpid()}, {uuid.uuid4().hex[:8]}"

    def pending(self) -> list[Migration]:
        """The migrations without a record; all, if the keyspace lacks a table or a column then.

        Every statement may be repeated. Records of a newer version are left alone. Raises
        ConfigError if a migration has changed since it was applied.
        """
        rows = read(
            self._session,
            "SELECT table_name, column_name FROM system_schema.columns WHERE keyspace_name = %s",
            (self._keyspace,),
        )
        columns = {(row.table_name, row.column_name) for row in rows}
        records = self._read_records() if (TABLE, "number") in columns else {}
        for migration in self._migrations:
            record = records.get(migration.number)
            if record is not None and record.checksum != migration.checksum:
                raise ConfigError(
                    f"migration {migration.title} is not the one that Liveprofile {record.version}"
                    f" applied at {record.applied_at:%Y-%m-%d %H:%M:%S} UTC: its statements were"
                    " edited. Restore the file, and write a change as a new migration"
                )
        pending = [each for each in self._migrations if each.number not in records]
        if pending:  # they may add what is missing
            return pending
        declared = {(table, name) for table, names in self._declared.items() for name in names}
        return [] if declared <= columns else list(self._migrations)

    def apply(self) -> list[str]:
        """Applies what is pending, and returns the titles."""
        if not self.pending():
            return []
        titles = []
        self._execute(SCHEMA_MIGRATION.create()[0])
        with self._locked():
            for _ in range(2):  # after new migrations, what is missing still
                for migration in self.pending():
                    self._run(migration)
                    titles.append(migration.title)
        return titles

    def _run(self, migration: Migration) -> None:
        for number, statement in enumerate(migration.statements, 1):
            self._renew()
            try:
                self._execute(statement)
            except ServiceError as error:
                raise ServiceError(
                    f"migration {migration.title}, statement {number} of"
                    f" {len(migration.statements)} (`{' '.join(statement.split())[:100]}`):"
                    f" {error}. Remove the cause and run `liveprofile job setup` again"
                ) from None
        self._renew()
        insert = SCHEMA_MIGRATION.insert(
            RECORD_TTL_S, self._keyspace, time="", without=("lock_owner",), mark="%s"
        )
        at = datetime.fromtimestamp(now_ms() / 1_000, UTC)
        key = (SCOPE, migration.number, migration.name, migration.checksum, at, __version__)
        until_deadline(lambda: execute(self._session, insert, key))

    def _execute(self, statement: str) -> None:
        execute(self._session, filled(statement, self._values), timeout=STATEMENT_TIMEOUT_S)

    def _read_records(self) -> dict[int, Applied]:
        fields = ", ".join(Applied._fields)
        query = f"SELECT {fields} FROM {self._table} WHERE scope = %s"
        rows = until_deadline(
            lambda: execute(self._session, query, (SCOPE,)),
            # For an instant system_schema has a new table that the node does not know yet.
            is_retryable=lambda error: (
                isinstance(error, ServiceUnavailableError)
                or f"table {TABLE} does not exist" in str(error)
            ),
        )
        # Without records, the row of a lock has no number.
        return {
            row.number: Applied(*row)._replace(applied_at=row.applied_at.replace(tzinfo=UTC))
            for row in rows
            if row.number is not None
        }

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the lock: a lightweight transaction, so that two processes never do at once.

        A process that dies loses it after LOCK_TTL_S. Raises ServiceError if another one holds it
        for longer than that, twice.
        """
        deadline_s = self._clock_s() + 2 * LOCK_TTL_S
        while (holder := self._take(None)) != self._owner:
            if self._clock_s() > deadline_s:
                raise ServiceError(
                    f"{self._table} is locked by another `liveprofile job setup` ({holder}). If"
                    f" that process is dead, the lock ends {LOCK_TTL_S} s after its last statement"
                )
            time.sleep(_POLL_S)
        try:
            yield
        finally:
            with suppress(ServiceError):  # the lock ends by itself
                self._conditional(
                    f"DELETE lock_owner FROM {self._table} WHERE scope = %s IF lock_owner = %s",
                    (SCOPE, self._owner),
                )

    def _renew(self) -> None:
        """Holds the lock for long enough to execute a statement."""
        if self._take(self._owner) != self._owner:
            raise ServiceError(
                f"another process has taken the lock of {self._table}, because this one was stopped"
                f" for more than {LOCK_TTL_S} s: run the command again"
            )

    def _take(self, holder: str | None) -> str | None:
        """Takes the lock from this holder, and returns who has it now."""
        result = self._conditional(
            f"UPDATE {self._table} USING TTL {LOCK_TTL_S} SET lock_owner = %s"
            " WHERE scope = %s IF lock_owner = %s",
            (self._owner, SCOPE, holder),
        )
        if result.was_applied:
            return self._owner
        return getattr(result.one(), "lock_owner", None)  # a row that has expired has no columns

    def _conditional(self, statement: str, values: Sequence[str | None]) -> ResultSet:
        # SERIAL, not LOCAL_SERIAL: tables are changed in all data centres.
        query = SimpleStatement(statement, serial_consistency_level=ConsistencyLevel.SERIAL)
        return until_deadline(lambda: execute(self._session, query, values))
