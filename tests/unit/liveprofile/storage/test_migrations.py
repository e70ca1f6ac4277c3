"""The files of migrations. tests/services/storage/test_migrations.py applies some."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from liveprofile.rows import TABLES
from liveprofile.storage.migrations import read_migrations
from liveprofile.storage.schema_files import texts

SHIPPED = read_migrations()
PARTS = re.compile(r",(?![^<(]*[>)])")  # not inside a type or a key


def columns_after(statements: Iterable[str]) -> dict[str, set[str]]:
    """The columns of each table after CREATE and ALTER statements."""
    found: dict[str, set[str]] = {}
    for text in (" ".join(statement.split()) for statement in statements):
        if text.startswith(("CREATE TABLE", "ALTER TABLE")):
            table, rest = re.search(r"\.(\w+)(.*)", text).groups()
            body = re.search(r"\((.*)\)", rest.split(" WITH ")[0])
            names = {part.split()[0] for part in PARTS.split(body[1])} if body else set()
            found[table] = found.get(table, set()) | names - {"PRIMARY"}
    return found


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
