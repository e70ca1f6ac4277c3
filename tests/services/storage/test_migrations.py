"""Migrations on Cassandra: applied once, by one process at a time, resumed and repaired."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cassandra.cluster import Session

from liveprofile import __version__
from liveprofile.errors import ConfigError, ServiceError
from liveprofile.settings import CassandraSettings
from liveprofile.storage import migrations
from liveprofile.storage.connection import open_session
from liveprofile.storage.migrations import RECORD_TTL_S, TABLE, Migration, Migrator
from liveprofile.storage.schema import migration_steps

pytestmark = pytest.mark.services

FIRST = Migration(
    1, "user", ("CREATE TABLE IF NOT EXISTS {keyspace}.u (id text PRIMARY KEY, n int)",)
)
SECOND = Migration(
    2,
    "age",
    (
        "ALTER TABLE {keyspace}.u ADD IF NOT EXISTS (age int)",
        "ALTER TABLE {keyspace}.u WITH compression = {'class': 'ZstdCompressor'}",
    ),
)
BOTH = (FIRST, SECOND)
DECLARED = {"u": ["id", "n", "age"]}
TITLES = [migration.title for migration in BOTH]
TAKE_LOCK = f"UPDATE {TABLE} SET lock_owner = 'another' WHERE scope = 'tables' IF lock_owner = %s"


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


@pytest.fixture
def one(own: CassandraSettings) -> Iterator[Session]:
    with open_session(own) as session:
        yield session


def migrator(session: Any, *found: Migration, **options: Any) -> Migrator:
    return Migrator(session, {"keyspace": session.keyspace}, found or BOTH, DECLARED, **options)


def states(session: Session, *found: Migration) -> list[str]:
    return [step.state for step in migrator(session, *found).steps()]


def lock_owners(session: Session) -> set[str | None]:
    return {row[0] for row in session.execute(f"SELECT lock_owner FROM {TABLE}")}


def test_fresh_keyspace_of_this_version_has_all_migrations(settings: CassandraSettings) -> None:
    assert {step.state for step in migration_steps(settings)} == {"applied"}


def test_setups_at_the_same_time_apply_each_migration_once(
    own: CassandraSettings, one: Session
) -> None:
    def apply(_: int) -> list[str]:
        with open_session(own) as session:
            return migrator(session).apply()

    assert states(one) == ["pending"] * 2
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(apply, range(3)))
    assert sorted(found, key=len) == [[], [], TITLES]
    assert lock_owners(one) == {None}
    [*ttls_s] = one.execute(f"SELECT TTL(name) FROM {TABLE}")
    assert all(RECORD_TTL_S - 600 < row[0] <= RECORD_TTL_S for row in ttls_s)
    first, second = migrator(one).steps()
    assert first.state == second.state == "applied"
    assert (first.applied.checksum, first.applied.version) == (FIRST.checksum, __version__)

    one.execute("ALTER TABLE u DROP age", timeout=60)
    assert states(one) == ["pending"] * 2
    assert sorted(apply(0)) == TITLES and apply(0) == []
    # A newer version has applied the second one: this one leaves it alone.
    assert states(one, FIRST) == ["applied", "unknown"] and migrator(one, FIRST).apply() == []
    edited = SECOND._replace(statements=SECOND.statements[:1])
    with pytest.raises(ConfigError, match="0002_age is not the one that Liveprofile"):
        migrator(one, FIRST, edited).apply()


def test_failed_step_says_what_to_do_and_is_resumed(one: Session) -> None:
    broken = SECOND._replace(
        statements=(SECOND.statements[0], "ALTER TABLE {keyspace}.v ADD a int")
    )
    with pytest.raises(ServiceError, match=r"0002_age, statement 2 of 2 .*job setup` again"):
        migrator(one, FIRST, broken).apply()
    assert lock_owners(one) == {None} and states(one) == ["applied", "pending"]
    assert migrator(one).apply() == TITLES[1:]


class StoppedSession:
    """A session of a process that loses the lock before its second migration."""

    def __init__(self, session: Session):
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def execute(self, query: Any, values: Any = None, **options: Any) -> Any:
        if isinstance(query, str) and query.startswith(f"INSERT INTO {self.keyspace}.{TABLE}"):
            [holder] = lock_owners(self._session)
            assert self._session.execute(TAKE_LOCK, (holder,)).was_applied
        return self._session.execute(query, values, **options)


def test_process_that_has_lost_the_lock_stops(
    one: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ServiceError, match="another process has taken the lock"):
        migrator(StoppedSession(one)).apply()
    assert lock_owners(one) == {"another"} and states(one) == ["applied", "pending"]
    monkeypatch.setattr(migrations, "_POLL_S", 0)
    times_s = iter(range(0, 10_000, 100))
    with pytest.raises(ServiceError, match=r"\(another\).*the lock ends 180 s after"):
        migrator(one, clock_s=lambda: next(times_s)).apply()
