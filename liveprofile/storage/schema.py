"""Creates the tables of schemas/cassandra.cql and checks existing ones."""

from __future__ import annotations

import re

from cassandra import DriverException
from cassandra.cluster import NoHostAvailable, Session
from cassandra.protocol import ErrorMessage

from liveprofile.errors import ConfigError, ServiceError
from liveprofile.resources import ROOT
from liveprofile.setting_sections import CassandraSettings
from liveprofile.storage.connection import address, close, connect, describe_error
from liveprofile.storage.flag_migration import migrate_flags

SCHEMA_FILE = ROOT / "schemas" / "cassandra.cql"
API_TABLES = ("api_key", "api_audit")


def create_schema(settings: CassandraSettings, embedding_dim: int) -> None:
    """Creates the keyspace, its tables and its indexes if they are missing.

    Raises ServiceError if Cassandra refuses a statement, ConfigError if existing tables have
    embeddings of another dimension.
    """
    session = connect(settings, use_keyspace=False)
    try:
        statements = schema_statements(settings, embedding_dim)
        _execute_all(session, statements)
        if migrate_flags(session, settings.keyspace, statements):
            _execute_all(session, statements)  # the indexes of the new tables
        check_embedding_dim(session, settings.keyspace, embedding_dim)
    except (NoHostAvailable, DriverException, ErrorMessage) as error:
        raise ServiceError(
            f"Cassandra at {address(settings)}: keyspace {settings.keyspace} cannot be created:"
            f" {describe_error(error)}"
        ) from None
    finally:
        close(session)


def create_api_tables(settings: CassandraSettings) -> None:
    """Creates the tables of the read API, and the keyspace, if they are missing.

    Keys can thus be created before the first `liveprofile submit`, and in a keyspace of an earlier
    version. Raises ServiceError if Cassandra refuses a statement.
    """
    session = connect(settings, use_keyspace=False)
    try:
        found = session.cluster.metadata.keyspaces.get(settings.keyspace)
        missing = [name for name in API_TABLES if found is None or name not in found.tables]
        wanted = [f"CREATE TABLE IF NOT EXISTS {settings.keyspace}.{name} " for name in missing]
        if found is None:
            wanted.append("CREATE KEYSPACE ")
        statements = schema_statements(settings, embedding_dim=1)
        _execute_all(session, [each for each in statements if each.startswith(tuple(wanted))])
    except (NoHostAvailable, DriverException, ErrorMessage) as error:
        raise ServiceError(
            f"Cassandra at {address(settings)}: the tables {', '.join(API_TABLES)} cannot be"
            f" created: {describe_error(error)}"
        ) from None
    finally:
        close(session)


def _execute_all(session: Session, statements: list[str]) -> None:
    for statement in statements:
        session.execute(statement, timeout=60)


def schema_statements(settings: CassandraSettings, embedding_dim: int) -> list[str]:
    """The statements of schemas/cassandra.cql for these settings and this embedding dimension."""
    text = SCHEMA_FILE.read_text(encoding="utf-8")
    replication = (
        f"{{'class': 'NetworkTopologyStrategy', '{settings.local_dc}': {settings.replication}}}"
    )
    for name, value in (
        ("keyspace", settings.keyspace),
        ("replication", replication),
        ("dim", str(embedding_dim)),
    ):
        text = text.replace("{" + name + "}", value)
    code = "\n".join(line.split("--")[0] for line in text.splitlines())
    return [statement.strip() for statement in code.split(";") if statement.strip()]


def table_columns() -> dict[str, list[str]]:
    """The columns of each table of schemas/cassandra.cql."""
    create = re.compile(r"CREATE TABLE IF NOT EXISTS \w+\.(\w+) \((.*)\)", re.DOTALL)
    tables = {}
    for statement in schema_statements(CassandraSettings(), embedding_dim=1):
        if match := create.match(statement):
            # A comma inside a type or a key does not separate columns.
            parts = re.split(r",(?![^<(]*[>)])", match[2])
            names = dict.fromkeys(part.split()[0] for part in parts if part.strip())
            tables[match[1]] = [name for name in names if name != "PRIMARY"]
    return tables


def check_embedding_dim(session: Session, keyspace: str, embedding_dim: int) -> None:
    """Checks the embedding dimension of user_profile.

    Raises ConfigError if it differs, ServiceError if the table is missing.
    """
    row = session.execute(
        "SELECT type FROM system_schema.columns WHERE keyspace_name = %s"
        " AND table_name = 'user_profile' AND column_name = 'embedding'",
        (keyspace,),
    ).one()
    expected = f"vector<float, {embedding_dim}>"
    if row is None:
        raise ServiceError(
            f"keyspace {keyspace} has no table user_profile: `liveprofile submit` creates it"
        )
    if row.type != expected:
        raise ConfigError(
            f"keyspace {keyspace} holds embeddings of type {row.type} and the model outputs"
            f" {expected}: set another keyspace in cassandra.keyspace"
        )
