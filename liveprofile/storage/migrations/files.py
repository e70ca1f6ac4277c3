"""Reads the migrations of schemas/migrations: one file each, with statements up and down.

A file has the marks `-- migrate:up` and `-- migrate:down`, as those of dbmate do. Every statement
may be repeated. A migration without statements down cannot be reverted. `-- contract: TABLE` before
the marks says that the migration drops what only earlier releases use (expand and contract, also
called parallel change): it waits until it is asked for, and until the table is empty.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from liveprofile.resources import ROOT

FOLDER = ROOT / "schemas" / "migrations"
_FILE = re.compile(r"(\d{4})_(\w+)\.cql")
_UP, _DOWN = "-- migrate:up", "-- migrate:down"


class Migration(NamedTuple):
    """A migration. Statements have the places {keyspace}, {dim} and {drop_us}.

    {drop_us} is for USING TIMESTAMP of a column that is dropped (DROP_MARGIN_US in runner.py).
    """

    number: int
    name: str
    up: tuple[str, ...]
    down: tuple[str, ...]
    contract: str | None = None  # the table that it drops

    @property
    def title(self) -> str:
        """Number and name, such as 0002_scores_by_hour."""
        return f"{self.number:04}_{self.name}"

    @property
    def checksum(self) -> str:
        """SHA-256 of the statements up, without comments; white space does not count."""
        text = ";".join(" ".join(statement.split()) for statement in self.up)
        return hashlib.sha256(text.encode()).hexdigest()


def read_migrations(folder: Path = FOLDER) -> list[Migration]:
    """The migrations of the folder in their order.

    Raises ValueError for a file that is no migration, and if a number is missing or occurs twice:
    the folder is part of the program.
    """
    found = [_parse(file) for file in sorted(folder.glob("*.cql"))]
    numbers = [migration.number for migration in found]
    if numbers != list(range(1, len(found) + 1)):
        raise ValueError(f"{folder}: the numbers of migrations are {numbers}")
    return found


def split_statements(text: str) -> tuple[str, ...]:
    """The statements of a CQL text without comments, each as it is written."""
    code = "\n".join(line.split("--")[0] for line in text.splitlines())
    return tuple(statement.strip() for statement in code.split(";") if statement.strip())


def filled(statement: str, values: Mapping[str, str]) -> str:
    """A statement with values for its places, such as {keyspace}."""
    for name, value in values.items():
        statement = statement.replace("{" + name + "}", value)
    return statement


def _parse(file: Path) -> Migration:
    named = _FILE.fullmatch(file.name)
    head, up, rest = file.read_text(encoding="utf-8").partition(_UP)
    if named is None or not up:
        raise ValueError(f"{file}: not NNNN_name.cql with a line `{_UP}`")
    forwards, _, backwards = rest.partition(_DOWN)
    contract = re.search(r"^-- contract: (\w+)$", head, re.MULTILINE)
    return Migration(
        int(named[1]),
        named[2],
        split_statements(forwards),
        split_statements(backwards),
        contract and contract[1],
    )
