"""Migrations are applied once, in order, under a lock; what the tables are, and limits of TTLs."""

import re
from pathlib import Path

import pytest
from cassandra import Unauthorized
from pydantic import BaseModel

from liveprofile.errors import ConfigError, ServiceError
from liveprofile.rows import TABLES
from liveprofile.settings import MAX_TTL_S, CassandraSettings, load
from liveprofile.storage import migrations
from liveprofile.storage.migrations import Migration, Migrator, filled, read_migrations
from liveprofile.storage.schema import schema_statements
from liveprofile.storage.schema_files import texts
from tests.support.memory.schema import MemorySchema, columns_after

SHIPPED = read_migrations()
VALUES = {"keyspace": "shop", "dim": "4"}
FIRST = Migration(
    1, "first", ("CREATE TABLE IF NOT EXISTS {keyspace}.user (user_id text PRIMARY KEY)",)
)
SECOND = Migration(
    2,
    "second",
    (
        "ALTER TABLE {keyspace}.user ADD IF NOT EXISTS (age int)",
        "CREATE TABLE IF NOT EXISTS {keyspace}.score (user_id text PRIMARY KEY, score double)",
    ),
)
BOTH = (FIRST, SECOND)
DECLARED = {"user": ["user_id", "age"], "score": ["user_id", "score"]}


def migrator(session: MemorySchema, found: tuple[Migration, ...] = BOTH) -> Migrator:
    return Migrator(session, VALUES, found, DECLARED)


def pending(session: MemorySchema, found: tuple[Migration, ...] = BOTH) -> list[Migration]:
    return migrator(session, found).pending()


def test_files_add_up_to_the_tables_and_only_add() -> None:
    """So a job of an earlier release runs on after a migration."""
    statements = [statement for migration in SHIPPED for statement in migration.statements]
    declared = {table.name: set(table.columns) for table in TABLES.values()}
    del declared["schema_migration"]  # exists before the first migration
    assert columns_after(statements) == declared
    adds = r"CREATE (TABLE|INDEX) IF NOT EXISTS |ALTER TABLE \S+ (ADD IF NOT EXISTS \(|WITH )"
    assert all(re.match(adds, " ".join(statement.split())) for statement in statements)


@pytest.mark.parametrize("file", texts(), ids=lambda file: file.name)
def test_files_say_what_the_tables_are(file: Path) -> None:
    """Otherwise run `python -m liveprofile.storage.schema_files`."""
    assert file.read_text("utf-8") == texts()[file]


def test_checksum_counts_statements_and_not_comments(tmp_path: Path) -> None:
    text = "-- Scores.\nCREATE TABLE t (a int);\nDROP TABLE s; -- old\n"
    found = []
    for changed in (text, text.replace("a int", "a  int").replace("old", "new"), text[:-20]):
        (tmp_path / "0001_scores.cql").write_text(changed)
        found += read_migrations(tmp_path)
    assert found[0].statements == ("CREATE TABLE t (a int)", "DROP TABLE s")
    assert found[0].checksum == found[1].checksum != found[2].checksum
    (tmp_path / "0003_late.cql").write_text(text)
    with pytest.raises(ValueError, match=r"0003_late.cql: not 0002_name.cql"):
        read_migrations(tmp_path)


def test_fresh_keyspace_gets_all_and_a_second_run_nothing() -> None:
    session = MemorySchema()
    assert pending(session) == [*BOTH]
    assert migrator(session).apply() == ["0001_first", "0002_second"]
    assert all(owner for text, owner in session.ddl if "schema_migration" not in text)
    assert session.owner is None
    done = len(session.ddl)
    session.unknown_reads = 2  # as of a table of records that is just created
    assert migrator(session).apply() == [] and len(session.ddl) == done
    # A newer version has applied the second one: this one leaves it alone.
    assert migrator(session, (FIRST,)).apply() == []


def test_failed_step_says_what_to_do_and_is_resumed() -> None:
    session = MemorySchema()

    def refuse(statement: str) -> None:
        if statement == filled(SECOND.statements[1], VALUES):
            raise Unauthorized("no permission")

    session.before = refuse
    with pytest.raises(ServiceError, match=r"0002_second, statement 2 of 2 .*no permission"):
        migrator(session).apply()
    assert session.owner is None and list(session.records) == [1]
    session.before = lambda statement: None
    assert migrator(session).apply() == ["0002_second"]
    assert pending(session) == []


def test_edited_migration_is_an_error() -> None:
    session = MemorySchema()
    migrator(session).apply()
    edited = SECOND._replace(statements=SECOND.statements[:1])
    with pytest.raises(ConfigError, match="0002_second is not the one that Liveprofile"):
        migrator(session, (FIRST, edited)).apply()


def test_process_that_has_lost_the_lock_stops() -> None:
    session = MemorySchema()

    def take(statement: str) -> None:
        if statement == filled(SECOND.statements[0], VALUES):
            session.owner = "another"

    session.before = take
    with pytest.raises(ServiceError, match="another process has taken the lock"):
        migrator(session).apply()
    assert session.owner == "another" and list(session.records) == [1]


def test_lock_that_is_never_released_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "_POLL_S", 0)
    session, times_s = MemorySchema(), iter(range(0, 10_000, 100))
    session.owner = "host a, process 1"
    with pytest.raises(ServiceError, match=r"host a, process 1.*the lock ends 180 s after"):
        Migrator(session, VALUES, BOTH, DECLARED, lambda: next(times_s)).apply()


def test_settings_and_embedding_size_are_filled_into_the_schema():
    settings = CassandraSettings(keyspace="shop", replication=3, local_dc="eu")
    statements = schema_statements(settings, 7)
    assert statements[0] == (
        "CREATE KEYSPACE IF NOT EXISTS shop"
        " WITH replication = {'class': 'NetworkTopologyStrategy', 'eu': 3}"
    )
    assert all(text.startswith("CREATE ") for text in statements)
    assert not any("{" in text.partition("WITH")[0] for text in statements)
    assert sum("vector<float, 7>" in text for text in statements) == 2


@pytest.mark.parametrize("value", [0, MAX_TTL_S + 1])
def test_ttl_of_a_table_is_at_least_a_second_and_at_most_20_years(value: int) -> None:
    ttls = [
        (name, key)
        for name, section in load()
        if isinstance(section, BaseModel)
        for key in type(section).model_fields
        if key.endswith("_ttl_s")
    ]
    assert len(ttls) >= 5
    for section, key in ttls:
        with pytest.raises(ConfigError, match=rf"{section}.{key} = {value}: Input should be"):
            load(**{section: {key: value}})
