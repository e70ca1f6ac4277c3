"""A keyspace of the last release is migrated, reverted and migrated again on Cassandra."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cassandra.cluster import Session

from liveprofile.errors import InputError
from liveprofile.setting_sections import CassandraSettings
from liveprofile.storage.connection import open_session
from liveprofile.storage.declarations import declare, split_statements
from liveprofile.storage.migrations.files import filled, read_migrations
from liveprofile.storage.migrations.records import TABLE
from liveprofile.storage.schema import create_schema, migration_steps, revert_migrations
from tests.support.paths import ROOT
from tests.support.rows.profile_rows import DIM

pytestmark = pytest.mark.services

RELEASED = ROOT / "tests" / "released_schemas" / "cassandra.cql"
MIGRATIONS = read_migrations()
TITLES = [migration.title for migration in MIGRATIONS]
AT_ONCE = [migration.title for migration in MIGRATIONS if not migration.contract]
LEFT_OUT = {"id", "keyspace_name"}  # of descriptions
REPLICATION = "{'class': 'SimpleStrategy', 'replication_factor': 1}"
# A value of each type of a key or of a column.
VALUES = {
    "text": "'a'",
    "timestamp": "1511658000000",
    "date": "'2017-11-26'",
    "timeuuid": "now()",
    "blob": "0x01",
    "boolean": "true",
    "frozen<set<text>>": "{'a'}",
    "set<text>": "{'a'}",
    "frozen<map<text, timestamp>>": "{'a': 1511658000000}",
    f"vector<float, {DIM}>": str([1.0] * DIM),
}


def released_statements(keyspace: str) -> list[str]:
    values = {"keyspace": keyspace, "replication": REPLICATION, "dim": str(DIM)}
    return split_statements(filled(RELEASED.read_text("utf-8"), values))


@pytest.fixture
def released(settings: CassandraSettings, session: Session) -> Iterator[CassandraSettings]:
    """A keyspace of release 0.1.0 with a row in each table that has all columns."""
    own = settings.model_copy(update={"keyspace": f"{settings.keyspace}_released"})
    statements = released_statements(own.keyspace)
    for statement in statements:
        session.execute(statement, timeout=60)
    for name, table in declare(statements).tables.items():
        columns = {column: kind.removesuffix(" static") for column, kind in table.columns.items()}
        values = ", ".join(VALUES.get(kind, "1") for kind in columns.values())
        session.execute(
            f"INSERT INTO {own.keyspace}.{name} ({', '.join(columns)}) VALUES ({values})"
            " USING TIMESTAMP 1511658000000000 AND TTL 100000"
        )
    yield own
    session.execute(f"DROP KEYSPACE {own.keyspace}", timeout=60)


def described(session: Session, keyspace: str, *without: str) -> dict[str, Any]:
    """Everything that Cassandra knows of the keyspace's tables, without their ids."""
    found: dict[str, Any] = {}
    for kind in ("tables", "columns", "indexes"):
        rows = session.execute(
            f"SELECT JSON * FROM system_schema.{kind} WHERE keyspace_name = %s", (keyspace,)
        )
        for (row,) in rows:
            values = json.loads(row)
            if values["table_name"] not in (TABLE, *without):
                key = (kind, values["table_name"], values.get("column_name"))
                found[str((*key, values.get("index_name")))] = {
                    name: value for name, value in values.items() if name not in LEFT_OUT
                }
    return found


def rows_of(session: Session, keyspace: str) -> dict[str, list[Any]]:
    """The rows of the tables of the last release, with their columns of then."""
    found = {}
    for name, table in declare(released_statements(keyspace)).tables.items():
        rows = session.execute(f"SELECT JSON {', '.join(table.columns)} FROM {keyspace}.{name}")
        found[name] = [json.loads(row[0]) for row in rows]
    return found


def test_keyspace_of_the_last_release_becomes_a_fresh_one_and_itself_again(
    settings: CassandraSettings, session: Session, released: CassandraSettings
) -> None:
    keyspace = released.keyspace
    fresh = described(session, settings.keyspace)
    old, rows = described(session, keyspace), rows_of(session, keyspace)
    assert all(rows.values()) and len(rows) == 11
    assert {step.state for step in migration_steps(released)} == {"pending", "waiting"}

    assert create_schema(released, DIM) == AT_ONCE
    assert described(session, keyspace, "risk_score") == fresh
    assert rows_of(session, keyspace) == rows
    assert create_schema(released, DIM) == []

    with pytest.raises(InputError, match="risk_score, which still has rows"):
        create_schema(released, DIM, contract=True)
    assert [each.title for each in revert_migrations(released, 1)] == AT_ONCE[:0:-1]
    assert described(session, keyspace) == old
    assert rows_of(session, keyspace) == rows

    session.execute(f"TRUNCATE {keyspace}.risk_score", timeout=60)
    assert create_schema(released, DIM, contract=True) == TITLES[1:]
    assert described(session, keyspace) == fresh
    assert [each.title for each in revert_migrations(released, None)] == TITLES[-1:]
    assert create_schema(released, DIM, contract=True) == TITLES[-1:]
    assert described(session, keyspace) == fresh


def test_setups_at_the_same_time_apply_each_migration_once(
    settings: CassandraSettings, session: Session
) -> None:
    own = settings.model_copy(update={"keyspace": f"{settings.keyspace}_twice"})
    session.execute(f"CREATE KEYSPACE {own.keyspace} WITH replication = {REPLICATION}", timeout=60)
    try:
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda _: create_schema(own, DIM), range(3)))
        assert sorted(found, key=len) == [[], [], TITLES]
        assert described(session, own.keyspace) == described(session, settings.keyspace)
        with open_session(own) as other:
            [row] = other.execute(f"SELECT lock_owner, TTL(lock_owner) FROM {TABLE} LIMIT 1")
            assert row == (None, None)
    finally:
        session.execute(f"DROP KEYSPACE {own.keyspace}", timeout=60)
