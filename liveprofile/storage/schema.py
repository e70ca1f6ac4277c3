"""Creates the tables of liveprofile.rows and what they lack, and checks existing ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from cassandra.cluster import ResultSet, Session

from liveprofile.errors import ConfigError, ServiceError
from liveprofile.rows import TABLES
from liveprofile.rows.operations import CHORE
from liveprofile.rows.table import Table
from liveprofile.settings import CassandraSettings
from liveprofile.storage.connection import open_session
from liveprofile.storage.cql import execute, read
from liveprofile.storage.lease import lock

CREATE_KEYSPACE = "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {replication}"
STATEMENT_TIMEOUT_S = 60
SCOPE = "tables"
LOCK_TTL_S = 180  # it is renewed before each statement


def create_schema(
    settings: CassandraSettings,
    embedding_dim: int,
    tables: Collection[Table] = TABLES.values(),
    lock_ttl_s: int = LOCK_TTL_S,
) -> list[str]:
    """Adds what `missing` finds, one process at a time; returns what this one has added.

    A run that ended early is resumed by the next one. Needs no permission to create or alter if
    nothing is missing. Raises ServiceError if Cassandra refuses a statement, and what `missing`
    raises.
    """
    added = []

    def add(name: str, statement: str) -> None:
        try:
            execute(session, statement, timeout=STATEMENT_TIMEOUT_S)
        except ServiceError as error:
            raise ServiceError(
                f"{name}: {error}. Remove the cause and run `liveprofile job setup` again"
            ) from None
        added.append(name)

    with open_session(settings, use_keyspace=False) as session:
        found = missing(session, settings, embedding_dim, tables)
        # The lease needs them.
        for name in (f"keyspace {settings.keyspace}", f"table {CHORE.name}"):
            if name in found:
                add(name, found[name])
        if found:
            execute(session, f"USE {settings.keyspace}")
            with lock(session, SCOPE, lock_ttl_s) as renew:
                for item in missing(session, settings, embedding_dim, tables).items():
                    renew()
                    add(*item)
    return added


def missing_schema(settings: CassandraSettings, embedding_dim: int) -> list[str]:
    """What `create_schema` would add. Raises what `missing` raises."""
    with open_session(settings, use_keyspace=False) as session:
        return list(missing(session, settings, embedding_dim))


def missing(
    session: Session,
    settings: CassandraSettings,
    embedding_dim: int,
    tables: Collection[Table] = TABLES.values(),
) -> dict[str, str]:
    """The statement that adds what the keyspace lacks, by a name such as `table user_profile`.

    Each may be repeated. Raises ServiceError, and ConfigError if a column has another type or is
    another part of the key.
    """
    keyspace = settings.keyspace
    replication = f"'{settings.local_dc}': {settings.replication}"
    values = {
        "{keyspace}": keyspace,
        "{replication}": f"{{'class': 'NetworkTopologyStrategy', {replication}}}",
        "{dim}": str(embedding_dim),
    }

    def stored(names: str, kind: str) -> ResultSet:
        query = f"SELECT {names} FROM system_schema.{kind} WHERE keyspace_name = %s"
        return read(session, query, (keyspace,))

    rows = stored("table_name, column_name, kind, type", "columns")
    columns = {tuple(row[:2]): f"{row.kind} {row.type}" for row in rows}
    indexes = {row.index_name for row in stored("index_name", "indexes")}
    found = {}
    if stored("keyspace_name", "keyspaces").one() is None:
        found[f"keyspace {keyspace}"] = CREATE_KEYSPACE
    known = {name for name, _ in columns}
    for table in tables:
        create, *create_indexes = table.create()
        if table.name not in known:
            found[f"table {table.name}"] = create
        for name, column in table.columns.items() if table.name in known else ():
            cql = _filled(column.cql.removesuffix(" static"), values)
            declared = f"{table.kind(name)} {cql}"
            present = columns.get((table.name, name))
            if present is None and name not in table.key:
                alter = (
                    f"ALTER TABLE {{keyspace}}.{table.name} ADD IF NOT EXISTS {name} {column.cql}"
                )
                found[f"column {table.name}.{name}"] = alter
            elif present != declared:
                raise ConfigError(
                    f"keyspace {keyspace} holds {table.name}.{name} as {present} and this version"
                    f" with its model needs {declared}: set another keyspace in"
                    " cassandra.keyspace"
                )
        for index, statement in zip(table.indexes, create_indexes, strict=True):
            if (name := index.split()[0]) not in indexes:
                found[f"index {name}"] = statement
    return {name: _filled(statement, values) for name, statement in found.items()}


def missing_names(session: Session, keyspace: str) -> list[str]:
    """The names of the tables and indexes that the keyspace lacks. Raises ServiceError."""
    found = set()
    for name, kind in (("table_name", "tables"), ("index_name", "indexes")):
        query = f"SELECT {name} FROM system_schema.{kind} WHERE keyspace_name = %s"
        found |= {row[0] for row in read(session, query, (keyspace,))}
    declared = (
        (each.name, *(index.split()[0] for index in each.indexes)) for each in TABLES.values()
    )
    return [name for names in declared for name in names if name not in found]


def _filled(text: str, values: Mapping[str, str]) -> str:
    """A text with values for its places, such as {keyspace}."""
    for place, value in values.items():
        text = text.replace(place, value)
    return text


def drop_keyspace(settings: CassandraSettings) -> None:
    """Drops the keyspace with its tables, if there is one. Raises ServiceError."""
    with open_session(settings, use_keyspace=False) as session:
        statement = f"DROP KEYSPACE IF EXISTS {settings.keyspace}"
        execute(session, statement, timeout=STATEMENT_TIMEOUT_S)


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
