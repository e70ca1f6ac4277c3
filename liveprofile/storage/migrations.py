"""Numbered changes of the keyspace, and what a keyspace has of them. Pure but for reading files.

schemas/migrations has one file each, with statements up and down.

A file has the marks `-- migrate:up` and `-- migrate:down`, as those of dbmate do. Every statement
may be repeated. A migration without statements down cannot be reverted. `-- contract: TABLE` before
the marks says that the migration drops what only earlier releases use (expand and contract, also
called parallel change): it waits until it is asked for, and until the table is empty.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

from liveprofile.errors import ConfigError, InputError
from liveprofile.resources import ROOT

FOLDER = ROOT / "schemas" / "migrations"
_FILE = re.compile(r"(\d{4})_(\w+)\.cql")
_UP, _DOWN = "-- migrate:up", "-- migrate:down"


class Migration(NamedTuple):
    """A migration. Statements have the places {keyspace}, {dim} and {drop_us}.

    {drop_us} is for USING TIMESTAMP of a column that is dropped (DROP_MARGIN_US in migrator.py).
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


State = Literal["applied", "pending", "incomplete", "waiting", "unknown"]


class Applied(NamedTuple):
    """The record of a migration that was applied."""

    number: int
    name: str
    checksum: str
    applied_at: datetime  # wall clock, UTC
    version: str  # of Liveprofile


class Step(NamedTuple):
    """A migration and what the keyspace knows of it.

    State: pending has no record; incomplete has one, but a table or a column is missing; waiting
    drops a table that earlier releases use; unknown has a record only, of a newer
    version.
    """

    number: int
    name: str
    state: State
    migration: Migration | None
    applied: Applied | None


def compare(
    migrations: Sequence[Migration],
    applied: Iterable[Applied],
    columns: Mapping[str, Collection[str]],
    declared: Mapping[str, Iterable[str]],
) -> list[Step]:
    """The steps of a keyspace, by number.

    columns: of each table that the keyspace has; declared: of those that it should have. Raises
    ConfigError if a migration has changed since it was applied.
    """
    missing = {
        table: lost
        for table, names in declared.items()
        if (lost := set(names).difference(columns.get(table, ())))
    }
    records = {record.number: record for record in applied}
    steps = []
    for migration in migrations:
        record = records.pop(migration.number, None)
        if record is not None:
            _check(migration, record)
        state = _state(migration, record, migration.contract in columns, missing)
        steps.append(Step(migration.number, migration.name, state, migration, record))
    newer = [Step(each.number, each.name, "unknown", None, each) for each in records.values()]
    return steps + sorted(newer, key=lambda step: step.number)


def to_apply(steps: Iterable[Step], contract: bool = False) -> list[Migration]:
    """The migrations to apply. contract: also those that wait."""
    states = {"pending", "incomplete"} | ({"waiting"} if contract else set())
    return [step.migration for step in steps if step.migration and step.state in states]


def to_revert(steps: Sequence[Step], to: int | None) -> list[Migration]:
    """The migrations to undo, the last first: those after the number `to`, by default the last one.

    Raises InputError if there is none, or one of them cannot be undone.
    """
    recorded = [step for step in steps if step.applied is not None]
    if to is None:
        undone = recorded[-1:]
    elif to in {step.number for step in recorded}:
        undone = [step for step in recorded if step.number > to]
    else:
        numbers = ", ".join(str(step.number) for step in recorded)
        raise InputError(f"--to {to}: not an applied migration ({numbers or 'there is none'})")
    found = []
    for step in reversed(undone):
        if step.migration is None:
            raise InputError(
                f"migration {step.number:04}_{step.name} was applied by Liveprofile"
                f" {step.applied.version}, and this version does not know it: revert it with that"
                " version"
            )
        if not step.migration.down:
            raise InputError(
                f"migration {step.migration.title} cannot be reverted: it creates the tables of the"
                " first release. `DROP KEYSPACE` removes them"
            )
        found.append(step.migration)
    return found


def _check(migration: Migration, record: Applied) -> None:
    if record.checksum != migration.checksum:
        raise ConfigError(
            f"migration {migration.title} is not the one that Liveprofile {record.version} applied"
            f" at {record.applied_at:%Y-%m-%d %H:%M:%S} UTC: its statements were edited (checksum"
            f" {migration.checksum[:12]}, applied: {record.checksum[:12]}). Restore the file, and"
            " write a change as a new migration"
        )


def _state(
    migration: Migration, record: Applied | None, in_use: bool, missing: Mapping[str, set[str]]
) -> State:
    if migration.contract and in_use:  # an earlier release may have created the table again
        return "waiting"
    if record is None:
        return "pending"
    texts = [(statement, set(re.findall(r"\w+", statement))) for statement in migration.up]
    lost = any(
        f"}}.{table} (" in text or f"}}.{table} ADD" in text
        for table, names in missing.items()
        for text, words in texts
        if not names.isdisjoint(words)
    )
    return "incomplete" if lost else "applied"
