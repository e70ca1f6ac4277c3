"""A keyspace and a profile sink for the tests of stores."""

from collections.abc import Iterable, Iterator

import pytest
from cassandra.cluster import Session

from liveprofile.rows import TABLES as ALL_TABLES
from liveprofile.settings import CassandraSettings
from liveprofile.storage.connection import open_session
from liveprofile.storage.schema import create_schema
from tests.support.rows.profile_rows import DIM, TABLES
from udfs.profile.store import CassandraProfileStore


@pytest.fixture(scope="session")
def _keyspace(cassandra_settings: CassandraSettings) -> Iterator[CassandraSettings]:
    """One for all files: to create it takes seconds."""
    own = cassandra_settings.model_copy(update={"keyspace": "sink_test"})
    create_schema(own, DIM)
    yield own
    with open_session(own) as session:
        session.execute(f"DROP KEYSPACE {own.keyspace}", timeout=60)


@pytest.fixture(scope="module")
def settings(_keyspace: CassandraSettings) -> CassandraSettings:
    """Settings with a keyspace whose tables are empty when a file begins."""
    with open_session(_keyspace) as session:
        empty(session, ALL_TABLES)
    return _keyspace


def empty(session: Session, tables: Iterable[str]) -> None:
    """Truncates those that have rows, because that takes longer than to ask for one.

    Deletions in a table without rows stay, and hide rows with earlier write times.
    """
    for table in tables:
        if session.execute(f"SELECT * FROM {table} LIMIT 1").one() is not None:
            session.execute(f"TRUNCATE {table}", timeout=60)


@pytest.fixture(scope="module")
def session(settings: CassandraSettings) -> Iterator[Session]:
    with open_session(settings) as session:
        yield session


@pytest.fixture
def sink(settings: CassandraSettings, session: Session) -> Iterator[CassandraProfileStore]:
    empty(session, TABLES)
    yield CassandraProfileStore(settings, DIM, session)
