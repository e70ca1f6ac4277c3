"""Compares the migrations of this version with what a keyspace has. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from liveprofile.errors import ConfigError, InputError
from liveprofile.storage.migrations.files import Migration

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
