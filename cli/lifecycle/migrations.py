"""Lists and reverts what `liveprofile job setup` has applied to tables."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.common import ConfigOption, JsonOption, format_utc, print_json, read_settings
from cli.options import Commands

migrations = Commands(
    name="migrations",
    help="List and revert the migrations of Cassandra's tables, which `setup` applies."
    " docs/deploy.md describes upgrades and rollbacks.",
)


@migrations.command(name="list")
def list_(config: ConfigOption = None, json: JsonOption = False) -> None:
    """List the migrations of this version and of the keyspace.

    States: applied; pending; incomplete (a table or column is missing: `setup` adds it); waiting
    (drops what earlier releases use: `setup --contract` applies it); unknown (a newer version has
    applied it).

    Example: `liveprofile job migrations list`
    """
    from cli.tables import new_table, print_tables
    from liveprofile.storage.cql import to_ms
    from liveprofile.storage.schema import migration_steps

    steps = migration_steps(read_settings(config).cassandra)
    if json:
        print_json(
            [
                {
                    "number": step.number,
                    "name": step.name,
                    "state": step.state,
                    "applied_at_ms": step.applied and to_ms(step.applied.applied_at),
                    "version": step.applied and step.applied.version,
                    "checksum": step.applied and step.applied.checksum,
                }
                for step in steps
            ]
        )
        return
    table = new_table(">number", "name", "state", "time", "version")
    for step in steps:
        time, version = "-", "-"
        if step.applied is not None:
            time, version = format_utc(to_ms(step.applied.applied_at)), step.applied.version
        table.add_row(f"{step.number:04}", step.name, step.state, time, version)
    print_tables(table)


@migrations.command()
def revert(
    to: Annotated[int | None, typer.Option(min=1)] = None,
    yes: bool = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Undo migrations, the last first: drop their tables and columns with what these contain.

    First stop the jobs and commands that use them. Jobs of the earlier release may run.

    Example: `liveprofile job migrations revert --to 11 --yes`

    Options:
    to N: Keep the migrations up to this number. Default: revert the last one.
    yes: Revert. Without it, only print what would be dropped.
    """
    from liveprofile.storage.schema import revert_migrations

    found = revert_migrations(read_settings(config).cassandra, to, dry_run=not yes)
    if json:
        print_json({"reverted": yes, "migrations": [migration.title for migration in found]})
        return
    for migration in found:
        typer.echo(f"{'reverted' if yes else 'would revert'} {migration.title}")
        if not yes:
            for statement in migration.down:
                line = " ".join(statement.partition("(\n")[0].split()).replace("{keyspace}.", "")
                typer.echo(f"    {line}")
    if not found:
        typer.echo("no migration to revert")
    elif not yes:
        typer.echo("nothing is changed: repeat the command with --yes")
