"""`liveprofile job`: tables and topics, and the Flink job."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.common import (
    ConfigOption,
    JsonOption,
    config_file,
    format_utc,
    print_fields,
    print_json,
    read_settings,
)
from cli.options import Commands
from liveprofile.resources import product_path
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
    from cli.submission import create_tables, read_model_card
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
    from cli.common import new_table, print_tables
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


def refuse_relative(folder: str | None) -> str | None:
    """Callback of an option with a folder of the cluster's file system."""
    if folder is not None and not re.match(r"/|[a-z][a-z0-9+.-]*:/", folder):
        raise typer.BadParameter(
            f"{folder!r} must be an absolute path or a URI, such as file:///shared/savepoints"
        )
    return folder


SavepointOption = Annotated[
    str | None,
    typer.Option(
        "--savepoint",
        metavar="FOLDER",
        show_default=False,
        help="Savepoint or retained checkpoint to restore the job's state from.",
        callback=refuse_relative,
    ),
]


PARALLELISM_VARIABLE = "LIVEPROFILE_JOB__PARALLELISM"


WAIT_TIMEOUT_S = 180.0


def submit(
    parallelism: Annotated[int | None, typer.Option(min=1)] = None,
    savepoint: SavepointOption = None,
    wait: bool = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Create missing topics and tables, then submit the profile job to Flink.

    Example: `liveprofile job submit --wait`
    or `liveprofile job submit --savepoint file:///shared/savepoints/savepoint-1a2b --wait`

    Options:
    parallelism: Parallelism of the job. Default: job.parallelism.
    wait: Wait until all tasks of the job run (at most 180 s).
    """
    from cli.submission import submit_job
    from liveprofile.flink.rest import wait_until_running

    if parallelism is not None:
        # The job is another process: it reads its settings from the file and the environment.
        os.environ[PARALLELISM_VARIABLE] = str(parallelism)
    settings, file = read_settings(config), config_file(config)
    job_id, created = submit_job(settings, file, savepoint)
    if wait:
        wait_until_running(settings.flink.rest_url, job_id, WAIT_TIMEOUT_S)
    result = {"job_id": job_id, "name": settings.job.name, "topics_created": created}
    print_json(result) if json else print_fields(result | {"topics_created": ", ".join(created)})


def status(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show the job's state, consumer lag, last checkpoint and model version.

    Exits with 1 if there is a warning: no checkpoint has completed for three intervals, events were
    not scored since the job's last start or restart, or a worker has refused a user model.

    Example: `liveprofile job status --json`
    """
    settings = read_settings(config)
    result = _collect_status(settings)
    if json:
        print_json(result)
    else:
        _print_status(settings, result)
    if result["warnings"]:
        raise typer.Exit(1)


def _print_status(settings: Settings, result: dict[str, Any]) -> None:
    checkpoint, lag_scoring, scoring = (
        result[name] for name in ("checkpoint", "lag_scoring", "scoring")
    )
    print_fields(
        {
            "job": f"{settings.job.name} {result['job_id']}",
            "state": f"{result['state']} for {result['uptime_s']:.0f} s,"
            f" {result['tasks_running']} of {result['tasks']} tasks running",
            "restarts": result["restarts"],
            "profile pipeline": f"{result['events_per_second']:.0f} events per second,"
            f" {result['lag_events']} records behind at the last checkpoint",
            "scoring pipeline": None
            if lag_scoring is None
            else f"{lag_scoring} records behind at the last checkpoint",
            "events to score": scoring
            and f"{scoring['events']} since the last start, {scoring['incomplete']} incomplete,"
            f" {scoring['unscored']} unscored",
            "last checkpoint": checkpoint
            and f"{checkpoint['age_s']:.0f} s ago, took {checkpoint['duration_ms']} ms,"
            f" {checkpoint['size_bytes'] / 1e6:.1f} MB of state",
            "failed checkpoints": result["checkpoints_failed"],
            "model": _describe_model(result),
        }
    )
    for warning in result["warnings"]:
        typer.echo(f"warning: {warning}", err=True)


def _collect_status(settings: Settings) -> dict[str, Any]:
    from liveprofile.flink.job_report import is_reported, job_warnings, report, scoring_report
    from liveprofile.flink.operator_metrics import model_report, operator_metrics
    from liveprofile.kafka.offsets import lag, scoring_group

    job = report(settings.flink.rest_url, settings.job.name)
    result: dict[str, Any] = job._asdict()
    result["checkpoint"] = job.checkpoint and job.checkpoint._asdict()
    result["lag_events"] = lag(settings)
    result["lag_scoring"] = (
        lag(settings, scoring_group(settings.kafka)) if settings.scoring.enabled else None
    )
    metrics = operator_metrics(settings.flink.rest_url, job.job_id, is_reported)
    scoring = scoring_report(metrics) if settings.scoring.enabled else None
    result["scoring"] = scoring and scoring._asdict()
    result["model_version"] = _model_version(product_path(settings.model.checkpoint))
    models = model_report(metrics)
    result["models"] = models and models._asdict()
    interval_ms = settings.job.checkpoint_interval_ms
    result["warnings"] = list(job_warnings(job, interval_ms, scoring, models))
    return result


def _describe_model(result: dict[str, Any]) -> str | None:
    models = result["models"]
    if not models or not models["highest_revision"]:
        return result["model_version"]
    return f"revision {models['highest_revision']} of `liveprofile model list`"


def _model_version(checkpoint: Path) -> str | None:
    """Version of the configured model; None if its model card is not on this machine."""
    import orjson

    card = checkpoint / "card.json"
    return orjson.loads(card.read_bytes())["version"] if card.is_file() else None


JobOption = Annotated[
    str | None,
    typer.Option(
        "--job",
        metavar="ID",
        show_default=False,
        help="Id of the job. Default: the job that runs with the name job.name.",
    ),
]


SavepointFolderOption = Annotated[
    str | None,
    typer.Option(
        "--savepoint",
        metavar="FOLDER",
        show_default=False,
        help="Folder for the savepoint, of the cluster's file system. Default: the cluster's"
        " execution.checkpointing.savepoint-dir.",
        callback=refuse_relative,
    ),
]


def stop(
    savepoint: SavepointFolderOption = None,
    job: JobOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Stop the job with a savepoint, from which `submit --savepoint` goes on.

    Windows stay open and are completed by the next job. If the savepoint fails, the job goes on.

    Example: `liveprofile job stop` or `liveprofile job stop --savepoint file:///shared/savepoints`
    """
    from liveprofile.flink import rest

    rest_url, job_id = _running_job(config, job)
    location = rest.stop_with_savepoint(rest_url, job_id, savepoint)
    if json:
        print_json({"job_id": job_id, "savepoint": location})
        return
    options = ["--config", str(config)] if config else []
    command = shlex.join(["liveprofile", "job", "submit", "--savepoint", location, *options])
    typer.echo(f"job {job_id} is stopped, savepoint {location}")
    typer.echo(f"To go on: {command} --wait")


def savepoint(
    folder: SavepointFolderOption = None,
    job: JobOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Take a savepoint of the job, which goes on.

    A second job of a new version starts from it beside this one (docs/operate.md).

    Example: `liveprofile job savepoint --savepoint file:///shared/savepoints`
    """
    from liveprofile.flink import rest

    rest_url, job_id = _running_job(config, job)
    location = rest.take_savepoint(rest_url, job_id, folder)
    if json:
        print_json({"job_id": job_id, "savepoint": location})
    else:
        typer.echo(f"savepoint {location} of job {job_id}, which goes on")


def cancel(job: JobOption = None, config: ConfigOption = None, json: JsonOption = False) -> None:
    """End the job without a savepoint. Its last retained checkpoint remains.

    A job that starts without a savepoint or checkpoint reads the topic again and knows nothing
    of earlier events. Use `stop` to go on later.

    Example: `liveprofile job cancel`
    """
    from liveprofile.flink import rest
    from liveprofile.flink.job_report import last_checkpoint_path

    rest_url, job_id = _running_job(config, job)
    rest.cancel(rest_url, job_id)
    checkpoint = last_checkpoint_path(rest_url, job_id)
    if json:
        print_json({"job_id": job_id, "checkpoint": checkpoint})
    else:
        typer.echo(f"job {job_id} is cancelled, last checkpoint {checkpoint or 'none'}")


def _running_job(config: Path | None, job: str | None) -> tuple[str, str]:
    """Flink's REST address and the id of the running job. Raises LiveprofileError."""
    from liveprofile.flink.job_report import require_running_job

    settings = read_settings(config)
    rest_url = settings.flink.rest_url
    return rest_url, require_running_job(rest_url, settings.job.name, job)
