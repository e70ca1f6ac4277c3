"""Creates the tables by migrations, and checks existing ones.

The migrations of schemas/migrations add up to liveprofile.rows, which the unit tests compare.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cassandra import DriverException
from cassandra.cluster import NoHostAvailable, Session
from cassandra.protocol import ErrorMessage

from liveprofile.errors import ConfigError, ServiceError
from liveprofile.rows import TABLES
from liveprofile.settings import CassandraSettings
from liveprofile.storage.connection import address, close, connect, describe_error
from liveprofile.storage.migrations import Migrator, filled

CREATE_KEYSPACE = "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {replication}"


def create_schema(settings: CassandraSettings, embedding_dim: int) -> list[str]:
    """Creates the keyspace if it is missing, and applies the migrations that are pending.

    Returns the titles of the migrations. Needs no permission to create or alter if nothing is
    pending. Raises ServiceError if Cassandra refuses a statement, ConfigError if existing tables
    have embeddings of another dimension or an applied migration was edited.
    """
    with _without_keyspace(settings) as session:
        if settings.keyspace not in session.cluster.metadata.keyspaces:
            _execute_all(session, schema_statements(settings, embedding_dim)[:1])
        session.set_keyspace(settings.keyspace)
        titles = Migrator(session, _values(settings, embedding_dim)).apply()
        check_embedding_dim(session, settings.keyspace, embedding_dim)
        return titles


def pending_migrations(settings: CassandraSettings) -> list[str]:
    """The titles of the migrations to apply, all of a keyspace that does not exist.

    Raises ServiceError, and ConfigError if an applied migration was edited.
    """
    with _without_keyspace(settings) as session:
        pending = Migrator(session, _values(settings, embedding_dim=1)).pending()
        return [migration.title for migration in pending]


def drop_keyspace(settings: CassandraSettings) -> None:
    """Drops the keyspace with its tables, if there is one. Raises ServiceError."""
    with _without_keyspace(settings) as session:
        session.execute(f"DROP KEYSPACE IF EXISTS {settings.keyspace}", timeout=60)


@contextmanager
def _without_keyspace(settings: CassandraSettings) -> Iterator[Session]:
    """A session of a keyspace that may not exist yet; turns errors into ServiceError."""
    session = connect(settings, use_keyspace=False)
    try:
        yield session
    except (NoHostAvailable, DriverException, ErrorMessage) as error:
        raise ServiceError(
            f"Cassandra at {address(settings)}: keyspace {settings.keyspace}:"
            f" {describe_error(error)}"
        ) from None
    finally:
        close(session)


def _execute_all(session: Session, statements: list[str]) -> None:
    for statement in statements:
        session.execute(statement, timeout=60)


def schema_statements(settings: CassandraSettings, embedding_dim: int) -> list[str]:
    """The statements that create the keyspace and all tables."""
    values = _values(settings, embedding_dim)
    creates = (text for table in TABLES.values() for text in table.create())
    return [filled(text, values) for text in (CREATE_KEYSPACE, *creates)]


def _values(settings: CassandraSettings, embedding_dim: int) -> dict[str, str]:
    return {
        "keyspace": settings.keyspace,
        "replication": "{'class': 'NetworkTopologyStrategy',"
        f" '{settings.local_dc}': {settings.replication}}}",
        "dim": str(embedding_dim),
    }


def check_table(session: Session, keyspace: str, table: str) -> None:
    """Raises ServiceError if the keyspace lacks the table."""
    query = (
        "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s AND table_name = %s"
    )
    if session.execute(query, (keyspace, table)).one() is None:
        raise ServiceError(
            f"keyspace {keyspace} has no table {table}: `liveprofile job setup` creates it"
        )


def check_embedding_dim(session: Session, keyspace: str, embedding_dim: int) -> None:
    """Checks the embedding dimension of user_profile.

    Raises ConfigError if it differs, ServiceError if the table is missing.
    """
    check_table(session, keyspace, "user_profile")
    row = session.execute(
        "SELECT type FROM system_schema.columns WHERE keyspace_name = %s"
        " AND table_name = 'user_profile' AND column_name = 'embedding'",
        (keyspace,),
    ).one()
    expected = f"vector<float, {embedding_dim}>"
    if row is None or row.type != expected:
        raise ConfigError(
            f"keyspace {keyspace} holds embeddings of type {row and row.type} and the model outputs"
            f" {expected}: set another keyspace in cassandra.keyspace"
        )
