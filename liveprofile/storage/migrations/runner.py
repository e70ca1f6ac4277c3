"""Applies and reverts migrations.

Each statement may be repeated, so a run that failed is resumed by the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from cassandra.cluster import Session

from liveprofile.errors import InputError, ServiceError
from liveprofile.rows import TABLES
from liveprofile.rows.operations import SCHEMA_MIGRATION
from liveprofile.storage.cql import execute, now_ms, read
from liveprofile.storage.migrations.files import Migration, filled, read_migrations
from liveprofile.storage.migrations.plan import Step, compare, to_apply, to_revert
from liveprofile.storage.migrations.records import TABLE, MigrationRecords

STATEMENT_TIMEOUT_S = 60
# Rows are written with the time of their window or event, by a producer's clock. Cassandra 5.0.6
# fails to read a partition with a cell of a dropped column whose write time is after the drop. So a
# column is dropped as of an hour from now: longer than limits.max_clock_skew_ms should ever be.
DROP_MARGIN_US = 3_600_000_000


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
