"""The files of migrations, and what they add up to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from liveprofile.storage.declarations import Declarations, declare, split_statements
from liveprofile.storage.migrations.files import FOLDER, read_migrations
from liveprofile.storage.schema import SCHEMA_FILE
from tests.support.paths import ROOT

# Release 0.1.0, which had no migrations.
RELEASED = ROOT / "tests" / "released_schemas" / "cassandra.cql"
MIGRATIONS = read_migrations()
UP = [statement for migration in MIGRATIONS for statement in migration.up]
# The table of the records exists before the first migration.
RECORDS = "schema_migration"


def declared(file: Path) -> Declarations:
    found = declare(split_statements(file.read_text("utf-8")))
    found.tables.pop(RECORDS, None)
    return found


def test_migrations_add_up_to_the_schema() -> None:
    assert declare(UP) == declared(SCHEMA_FILE)


def test_migrations_turn_the_last_release_into_the_schema_and_back() -> None:
    released = split_statements(RELEASED.read_text("utf-8"))
    assert declare([*released, *UP]) == declared(SCHEMA_FILE)
    back = [statement for migration in reversed(MIGRATIONS[1:]) for statement in migration.down]
    assert declare([*released, *UP, *back]) == declared(RELEASED)
    assert MIGRATIONS[0].down == ()


@pytest.mark.parametrize("migration", MIGRATIONS, ids=lambda migration: migration.title)
def test_job_of_an_earlier_release_runs_on_after_a_migration(migration) -> None:
    """What is not a contract only adds, so old and new jobs write at the same time."""
    adds = re.compile(
        r"CREATE (TABLE|INDEX) IF NOT EXISTS |ALTER TABLE \S+ (ADD IF NOT EXISTS \(|WITH )"
    )
    for statement in migration.up:
        if migration.contract:
            assert statement == f"DROP TABLE IF EXISTS {{keyspace}}.{migration.contract}"
        else:
            assert adds.match(" ".join(statement.split())), statement


@pytest.mark.parametrize("migration", MIGRATIONS[1:], ids=lambda migration: migration.title)
def test_statements_can_be_repeated_in_both_directions(migration) -> None:
    before = [s for each in MIGRATIONS[: migration.number - 1] for s in each.up]
    for half in range(len(migration.up) + 1):
        assert declare([*before, *migration.up[:half], *migration.up]) == declare(
            [*before, *migration.up]
        )
    after = [*before, *migration.up]
    for half in range(len(migration.down) + 1):
        assert declare([*after, *migration.down[:half], *migration.down]) == declare(
            [*after, *migration.down]
        )


def test_dropped_column_has_a_time_after_the_write_times_of_its_cells() -> None:
    dropping = [
        " ".join(statement.split())
        for migration in MIGRATIONS
        for statement in (*migration.up, *migration.down)
        if statement.startswith("ALTER TABLE") and " DROP " in " ".join(statement.split())
    ]
    assert len(dropping) >= 3
    assert all(text.endswith(" USING TIMESTAMP {drop_us}") for text in dropping)


def test_checksum_counts_statements_and_not_comments(tmp_path: Path) -> None:
    text = (FOLDER / "0002_scores_by_hour.cql").read_text("utf-8")
    checksums = []
    for changed in (
        text,
        "-- Another comment.\n" + text.replace("    hour timestamp,", "  hour  timestamp, -- UTC"),
        text.replace("hour timestamp", "hour date"),
    ):
        (tmp_path / "0001_scores.cql").write_text(changed)
        [migration] = read_migrations(tmp_path)
        checksums.append(migration.checksum)
    assert checksums[0] == checksums[1] != checksums[2]


def test_files_that_are_no_migrations_are_refused(tmp_path: Path) -> None:
    (tmp_path / "0002_late.cql").write_text("-- migrate:up\n")
    with pytest.raises(ValueError, match=r"the numbers of migrations are \[2\]"):
        read_migrations(tmp_path)
    (tmp_path / "0001_empty.cql").write_text("DROP TABLE k.t;")
    with pytest.raises(ValueError, match="migrate:up"):
        read_migrations(tmp_path)
