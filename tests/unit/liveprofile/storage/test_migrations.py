"""The files of migrations, and what they add up to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from liveprofile.rows import TABLES
from liveprofile.storage.migrations import read_migrations
from liveprofile.storage.schema_files import texts
from tests.support.memory.schema import columns_after

MIGRATIONS = read_migrations()
UP = [statement for migration in MIGRATIONS for statement in migration.up]
SCORES = """
-- Scores by hour.
-- contract: old_score
-- migrate:up
CREATE TABLE IF NOT EXISTS {keyspace}.score (
    user_id text PRIMARY KEY,
    hour timestamp
);
DROP TABLE IF EXISTS {keyspace}.old_score;
-- migrate:down
DROP TABLE IF EXISTS {keyspace}.score;
"""


def test_migrations_add_up_to_the_tables() -> None:
    declared = {table.name: set(table.columns) for table in TABLES.values()}
    del declared["schema_migration"]  # exists before the first migration
    assert columns_after(UP) == declared


@pytest.mark.parametrize("file", texts(), ids=lambda file: file.name)
def test_files_say_what_the_tables_are(file: Path) -> None:
    """Otherwise run `python -m liveprofile.storage.schema_files`."""
    assert file.read_text("utf-8") == texts()[file]


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


def test_statements_can_be_repeated_in_both_directions() -> None:
    before: list[str] = []
    for up, down in ((migration.up, migration.down) for migration in MIGRATIONS):
        after = [*before, *up]
        for half in range(len(up) + 1):
            assert columns_after([*before, *up[:half], *up]) == columns_after(after)
        for half in range(len(down) + 1):
            assert columns_after([*after, *down[:half], *down]) == columns_after([*after, *down])
        for text in (" ".join(statement.split()) for statement in (*up, *down)):
            if text.startswith("ALTER TABLE") and " DROP " in text:  # after the cells' write times
                assert text.endswith(" USING TIMESTAMP {drop_us}")
        before = after


def test_file_has_statements_up_and_down_and_the_table_that_it_drops(tmp_path: Path) -> None:
    (tmp_path / "0001_scores.cql").write_text(SCORES)
    [migration] = read_migrations(tmp_path)
    assert (migration.title, migration.contract) == ("0001_scores", "old_score")
    assert [statement[:10] for statement in migration.up] == ["CREATE TAB", "DROP TABLE"]
    assert migration.down == ("DROP TABLE IF EXISTS {keyspace}.score",)


def test_checksum_counts_statements_and_not_comments(tmp_path: Path) -> None:
    checksums = []
    for changed in (
        SCORES,
        "-- Another comment.\n" + SCORES.replace("    hour timestamp", "  hour  timestamp -- UTC"),
        SCORES.replace("hour timestamp", "hour date"),
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
