"""`liveprofile job setup`: creates topics and tables, without a job."""

from __future__ import annotations

import typer

from cli.common import ConfigOption, JsonOption, print_json, read_settings
from liveprofile.settings import Settings


def setup(
    dry_run: bool = False,
    contract: bool = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Create missing topics, and apply pending migrations of the tables, without a job.

    `submit` does the same. What exists stays as it is, and a job may be running. The account needs
    the right to create topics, a keyspace and tables, so that the account of `submit` needs none.
    `liveprofile job migrations list` shows what has been applied.

    Example: `liveprofile job setup --dry-run`

    Options:
    dry_run: Only list what is missing and pending; change nothing.
    contract: Also drop the tables that only earlier releases use, if they are empty. No job of an
        earlier release may run.
    """
    from cli.pipeline.job_submission import create_tables, read_model_card
    from liveprofile.kafka.topics import create_topics

    settings = read_settings(config)
    card = read_model_card(settings)
    if dry_run:
        _print_missing(settings, contract, json)
        return
    topics = create_topics(settings)
    applied = create_tables(settings, card, contract)
    keyspace = settings.cassandra.keyspace if settings.job.store == "cassandra" else None
    if json:
        print_json({"topics_created": topics, "keyspace": keyspace, "migrations_applied": applied})
        return
    typer.echo(f"topics created: {', '.join(topics) or 'none, all exist'}")
    if keyspace is None:
        typer.echo("no tables: job.store = none")
        return
    typer.echo(
        f"migrations applied to keyspace {keyspace}: {', '.join(applied) or 'none, all are'}"
    )


def _print_missing(settings: Settings, contract: bool, json: bool) -> None:
    from liveprofile.kafka.topics import missing_topics
    from liveprofile.storage.migrations.plan import to_apply
    from liveprofile.storage.schema import migration_steps

    topics = missing_topics(settings)
    stored = settings.job.store == "cassandra"
    steps = migration_steps(settings.cassandra) if stored else []
    pending = [migration.title for migration in to_apply(steps, contract)]
    waiting = [each.migration.title for each in steps if each.state == "waiting" and not contract]
    if json:
        print_json(
            {
                "topics_missing": topics,
                "migrations_pending": pending,
                "migrations_waiting": waiting,
            }
        )
        return
    typer.echo(f"topics to create: {', '.join(topics) or 'none, all exist'}")
    typer.echo(f"migrations to apply: {', '.join(pending) or 'none, all are'}")
    if waiting:
        typer.echo(f"waiting for `liveprofile job setup --contract`: {', '.join(waiting)}")
