"""Migrations on Cassandra: applied by one process at a time, and repaired."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from cassandra.cluster import Session

from liveprofile.settings import CassandraSettings
from liveprofile.storage.connection import open_session
from liveprofile.storage.migrations import RECORD_TTL_S, TABLE, Migration, Migrator
from liveprofile.storage.schema import pending_migrations

MIGRATIONS = (
    Migration(1, "user", ("CREATE TABLE IF NOT EXISTS {keyspace}.u (id text PRIMARY KEY, n int)",)),
    Migration(
        2,
        "age",
        (
            "ALTER TABLE {keyspace}.u ADD IF NOT EXISTS (age int)",
            "ALTER TABLE {keyspace}.u WITH compression = {'class': 'ZstdCompressor'}",
        ),
    ),
)
DECLARED = {"u": ["id", "n", "age"]}
TITLES = [migration.title for migration in MIGRATIONS]


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
    assert pending_migrations(settings) == []


def test_setups_at_the_same_time_apply_each_migration_once(own: CassandraSettings) -> None:
    def apply(_: int) -> list[str]:
        with open_session(own) as one:
            return Migrator(one, {"keyspace": own.keyspace}, MIGRATIONS, DECLARED).apply()

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(apply, range(3)))
    assert sorted(found, key=len) == [[], [], TITLES]
    with open_session(own) as session:
        [*rows] = session.execute(f"SELECT number, lock_owner, TTL(name) FROM {TABLE}")
    assert [row[:2] for row in rows] == [(1, None), (2, None)]
    assert all(RECORD_TTL_S - 600 < row[2] <= RECORD_TTL_S for row in rows)
    with open_session(own) as session:
        session.execute("ALTER TABLE u DROP age", timeout=60)
    assert sorted(apply(0)) == TITLES and apply(0) == []
