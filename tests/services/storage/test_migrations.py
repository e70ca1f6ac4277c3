"""Migrations on Cassandra: applied, reverted and applied again, by one process at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cassandra.cluster import Session

from liveprofile.errors import InputError
from liveprofile.settings import CassandraSettings
from liveprofile.storage.connection import open_session
from liveprofile.storage.cql import now_ms
from liveprofile.storage.migrations import Migration
from liveprofile.storage.migrator import RECORD_TTL_S, TABLE, Migrator
from liveprofile.storage.schema import migration_steps
from liveprofile.units import MINUTE_MS

pytestmark = pytest.mark.services

ZSTD, LZ4 = (
    f"ALTER TABLE {{keyspace}}.u WITH compression = {{'class': '{name}', 'chunk_length_in_kb': 16}}"
    for name in ("ZstdCompressor", "LZ4Compressor")
)
ADD_AGE = "ALTER TABLE {keyspace}.u ADD IF NOT EXISTS (age int)"
DROP_AGE = "ALTER TABLE {keyspace}.u DROP IF EXISTS (age) USING TIMESTAMP {drop_us}"
OLD = "CREATE TABLE IF NOT EXISTS {keyspace}.old (id text PRIMARY KEY)"
MIGRATIONS = (
    Migration(
        1, "user", ("CREATE TABLE IF NOT EXISTS {keyspace}.u (id text PRIMARY KEY, n int)", OLD), ()
    ),
    Migration(2, "age", (ADD_AGE, ZSTD), (LZ4, DROP_AGE)),
    Migration(3, "drop_old", ("DROP TABLE IF EXISTS {keyspace}.old",), (OLD,), "old"),
)


def titles(migrations: Iterable[Migration]) -> list[str]:
    return [migration.title for migration in migrations]


def described(session: Session, keyspace: str) -> dict[str, Any]:
    """Everything that Cassandra knows of the keyspace's tables, without their ids."""
    found: dict[str, Any] = {}
    for kind in ("tables", "columns"):
        query = f"SELECT JSON * FROM system_schema.{kind} WHERE keyspace_name = %s"
        for (row,) in session.execute(query, (keyspace,)):
            values = json.loads(row)
            if values["table_name"] != TABLE:
                del values["keyspace_name"]
                values.pop("id", None)
                found[f"{values['table_name']}.{values.get('column_name')}"] = values
    return found


@pytest.fixture
def own(settings: CassandraSettings, session: Session) -> Iterator[CassandraSettings]:
    """A keyspace without tables."""
    keyspace = f"{settings.keyspace}_migrated"
    session.execute(
        f"CREATE KEYSPACE {keyspace} WITH replication ="
        " {'class': 'SimpleStrategy', 'replication_factor': 1}",
        timeout=60,
    )
    yield settings.model_copy(update={"keyspace": keyspace})
    session.execute(f"DROP KEYSPACE {keyspace}", timeout=60)


def test_fresh_keyspace_of_this_version_has_all_migrations(settings: CassandraSettings) -> None:
    assert {step.state for step in migration_steps(settings)} == {"applied"}


def test_migrations_are_reverted_and_applied_again(own: CassandraSettings) -> None:
    values = {"keyspace": own.keyspace}
    with open_session(own) as session:
        assert Migrator(session, values, MIGRATIONS[:1], declared={}).apply() == ["0001_user"]
        before = described(session, own.keyspace)
        migrator = Migrator(session, values, MIGRATIONS, declared={})
        session.execute("INSERT INTO old (id) VALUES ('a')")
        assert migrator.apply() == ["0002_age"]
        with pytest.raises(InputError, match="old, which still has rows"):
            migrator.apply(contract=True)
        session.execute("TRUNCATE old", timeout=60)
        assert migrator.apply(contract=True) == ["0003_drop_old"]
        after = described(session, own.keyspace)
        assert after["u.None"]["compression"]["class"].endswith("ZstdCompressor")

        # The clock of a producer may be ahead, so that a cell is written later than the drop.
        ahead_us = now_ms() * 1_000 + 5 * MINUTE_MS * 1_000
        update = f"UPDATE u USING TTL 1000 AND TIMESTAMP {ahead_us}"
        session.execute(f"{update} SET age = 1 WHERE id = 'b'")
        assert titles(migrator.revert(1)) == ["0003_drop_old", "0002_age"]
        assert described(session, own.keyspace) == before
        session.execute(f"{update} SET n = 2 WHERE id = 'b'")
        assert migrator.apply(contract=True) == ["0002_age", "0003_drop_old"]
        [row] = session.execute("SELECT n, age FROM u")
        assert (row.n, row.age) == (2, None)
        assert described(session, own.keyspace) == after


def test_setups_at_the_same_time_apply_each_migration_once(own: CassandraSettings) -> None:
    def apply(_: int) -> list[str]:
        with open_session(own) as one:
            return Migrator(one, {"keyspace": own.keyspace}, MIGRATIONS[:2], declared={}).apply()

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(apply, range(3)))
    assert sorted(found, key=len) == [[], [], titles(MIGRATIONS[:2])]
    with open_session(own) as session:
        [*rows] = session.execute(f"SELECT number, lock_owner, TTL(name) FROM {TABLE}")
    assert [row[:2] for row in rows] == [(1, None), (2, None)]
    assert all(RECORD_TTL_S - 600 < row[2] <= RECORD_TTL_S for row in rows)
