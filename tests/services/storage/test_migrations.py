"""A keyspace of the last release is migrated, reverted and migrated again on Cassandra."""

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
from liveprofile.storage.declarations import declare, split_statements
from liveprofile.storage.migrations.files import Migration, filled, read_migrations
from liveprofile.storage.migrations.records import RECORD_TTL_S, TABLE
from liveprofile.storage.migrations.runner import Migrator
from liveprofile.storage.schema import create_schema, migration_steps, revert_migrations
from liveprofile.units import MINUTE_MS
from tests.support.paths import ROOT
from tests.support.rows.profile_rows import DIM

pytestmark = pytest.mark.services

RELEASED = ROOT / "tests" / "released_schemas" / "cassandra.cql"
MIGRATIONS = read_migrations()
TITLES = [migration.title for migration in MIGRATIONS]
AT_ONCE = [migration.title for migration in MIGRATIONS if not migration.contract]
CONTRACT = [migration.title for migration in MIGRATIONS if migration.contract]
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
    assert all(rows.values()) and len(rows) == 12
    assert {step.state for step in migration_steps(released)} == {"pending", "waiting"}

    assert create_schema(released, DIM) == AT_ONCE
    assert described(session, keyspace, "risk_score") == fresh
    assert rows_of(session, keyspace) == rows
    assert create_schema(released, DIM) == []

    with pytest.raises(InputError, match="risk_score, which still has rows"):
        create_schema(released, DIM, contract=True)
    session.execute(f"TRUNCATE {keyspace}.risk_score", timeout=60)
    assert create_schema(released, DIM, contract=True) == CONTRACT
    assert described(session, keyspace) == fresh
    check_that_dropped_columns_can_be_added_again(session, released)
    assert described(session, keyspace) == fresh

    assert titles(revert_migrations(released, 1)) == TITLES[:0:-1]
    assert described(session, keyspace) == old
    assert rows_of(session, keyspace) == rows | {"risk_score": []}


def check_that_dropped_columns_can_be_added_again(
    session: Session, released: CassandraSettings
) -> None:
    """Also if the clock of a producer was ahead, so that a cell is written later than the drop."""
    table, key = f"{released.keyspace}.profile_delta", "user_id = 'b' AND window_end = 0"
    ahead_us = now_ms() * 1_000 + 5 * MINUTE_MS * 1_000
    update = f"UPDATE {table} USING TTL 1000 AND TIMESTAMP {ahead_us}"
    session.execute(f"{update} SET revision = 1 WHERE {key}")
    before = TITLES.index("0011_corrections")
    assert titles(revert_migrations(released, before)) == TITLES[: before - 1 : -1]
    session.execute(f"{update} SET events = 2 WHERE {key}")
    [row] = session.execute(f"SELECT * FROM {table} WHERE user_id = 'b'")
    assert row.events == 2 and not hasattr(row, "revision")
    assert create_schema(released, DIM, contract=True) == TITLES[before:]
    [row] = session.execute(f"SELECT * FROM {table} WHERE user_id = 'b'")
    assert (row.events, row.revision) == (2, None)
    session.execute(f"DELETE FROM {table} USING TIMESTAMP {ahead_us} WHERE {key}")


def titles(migrations: Iterable[Migration]) -> list[str]:
    return [migration.title for migration in migrations]


FEW = (
    Migration(1, "user", ("CREATE TABLE IF NOT EXISTS {keyspace}.u (id text PRIMARY KEY)",), ()),
    Migration(2, "age", ("ALTER TABLE {keyspace}.u ADD IF NOT EXISTS (age int)",), ()),
)


def test_setups_at_the_same_time_apply_each_migration_once(
    settings: CassandraSettings, session: Session
) -> None:
    keyspace = f"{settings.keyspace}_twice"
    session.execute(f"CREATE KEYSPACE {keyspace} WITH replication = {REPLICATION}", timeout=60)
    own = settings.model_copy(update={"keyspace": keyspace})

    def apply(_: int) -> list[str]:
        with open_session(own) as one:
            return Migrator(one, {"keyspace": keyspace}, FEW).apply()

    try:
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(apply, range(3)))
        assert sorted(found, key=len) == [[], [], titles(FEW)]
        [*rows] = session.execute(f"SELECT number, lock_owner, TTL(name) FROM {keyspace}.{TABLE}")
        assert [row[:2] for row in rows] == [(1, None), (2, None)]
        assert all(RECORD_TTL_S - 600 < row[2] <= RECORD_TTL_S for row in rows)
    finally:
        session.execute(f"DROP KEYSPACE {keyspace}", timeout=60)
