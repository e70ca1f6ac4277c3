"""`liveprofile job`: tables and topics, and the Flink job."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cli.common import Call, JobCall, option
from cli.progress import print_line
from cli.submission import (
    check_submission,
    create_tables,
    replace_job,
    start_job,
    submit_job,
)
from liveprofile.errors import LiveprofileError, ServiceError
from liveprofile.flink import rest
from liveprofile.flink.job_report import (
    last_checkpoint_path,
    require_running_job,
)
from liveprofile.flink.jobs import only_job
from liveprofile.kafka.topics import create_topics, missing_topics
from liveprofile.settings import ENV_PREFIX, load
from liveprofile.storage.schema import missing_schema
from services.operations import chore_status, job_status


def setup(call: Call, dry_run: bool = False) -> None:
    """Create missing topics, and what the keyspace lacks, without a job.

    `submit` does the same. What exists stays as it is, and a job may be running. After it the
    account of `submit` needs no right to create topics, a keyspace or tables.

    Example: `liveprofile job setup --dry-run`

    Options:
    dry_run: Only list what is missing; change nothing.
    """
    settings = call.settings
    card = check_submission(settings)
    if dry_run:
        topics = missing_topics(settings)
        lacks = missing_schema(settings.cassandra, card.shape["embedding"])
        call.print({"topics_missing": topics, "keyspace_lacks": lacks})
        return
    topics = create_topics(settings)
    added = create_tables(settings, card)
    call.print(
        {
            "topics_created": topics,
            "keyspace": settings.cassandra.keyspace,
            "keyspace_added": added,
        }
    )


def refuse_relative(folder: str | None) -> str | None:
    """Callback of an option with a folder of the cluster's file system."""
    if folder is not None and not re.match(r"/|[a-z][a-z0-9+.-]*:/", folder):
        raise typer.BadParameter(
            f"{folder!r} must be an absolute path or a URI, such as file:///shared/savepoints"
        )
    return folder


SAVEPOINT_HELP = "Savepoint or retained checkpoint to restore the job's state from."
SavepointOption = Annotated[
    str | None, option("--savepoint", "FOLDER", SAVEPOINT_HELP, callback=refuse_relative)
]
FOLDER_HELP = (
    "Folder for the savepoint, of the cluster's file system. Default: the cluster's"
    " execution.checkpointing.savepoint-dir."
)
SavepointFolderOption = Annotated[
    str | None, option("--savepoint", "FOLDER", FOLDER_HELP, callback=refuse_relative)
]
JOB_HELP = "Id of the job. Default: the job that runs with the name job.name."
JobOption = Annotated[str | None, option("--job", "ID", JOB_HELP)]
WAIT_TIMEOUT_S = 180.0


def submit(
    call: JobCall,
    parallelism: Annotated[int | None, typer.Option(min=1)] = None,
    savepoint: SavepointOption = None,
    wait: bool = False,
) -> None:
    """Create missing topics and tables, then submit the job to Flink.

    Example: `liveprofile job submit --wait`

    Options:
    parallelism: Parallelism of the job. Default: job.parallelism or scoring.parallelism.
    wait: Wait until all tasks of the job run (at most 180 s).
    """
    variables = {}
    if parallelism is not None:
        # The job is another process: it reads its settings from the file and the environment.
        section = "SCORING" if call.job.pipeline == "scoring" else "JOB"
        variables[f"{ENV_PREFIX}{section}__PARALLELISM"] = str(parallelism)
    settings = call.settings
    job_id, created = submit_job(call.job, call.file, savepoint, variables=variables)
    if wait:
        rest.wait_until_running(settings.flink.rest_url, job_id, WAIT_TIMEOUT_S)
    call.print({"job_id": job_id, "name": settings.job.name, "topics_created": created})


def status(call: JobCall) -> None:
    """Show the job's state, consumer lag, last checkpoint and model version.

    Exits with 1 if there is a warning: no checkpoint has completed for three intervals, events were
    not scored since the job's last start or restart, a worker has refused a user model, a chore has
    not succeeded for three intervals, or Cassandra, which knows of chores, does not answer.

    Example: `liveprofile job status --json`
    """
    result = job_status(call.job)
    try:
        with call.session() as session:
            chores = chore_status(session, call.settings)
    except ServiceError as error:  # what Flink and Kafka tell counts without Cassandra, too
        chores = {"chores": None, "warnings": [f"chores: {error}"]}
    result |= {"chores": chores["chores"], "warnings": result["warnings"] + chores["warnings"]}
    call.print(result)
    for warning in result["warnings"] if not call.json else ():
        typer.echo(f"warning: {warning}", err=True)
    if result["warnings"]:
        raise typer.Exit(1)


def stop(call: JobCall, savepoint: SavepointFolderOption = None, job: JobOption = None) -> None:
    """Stop the job with a savepoint, from which `submit --savepoint` goes on.

    Windows stay open and are completed by the next job. If the savepoint fails, the job goes on.

    Example: `liveprofile job stop --savepoint file:///shared/savepoints`
    """
    rest_url, job_id = _running_job(call, job)
    location = rest.savepoint(rest_url, job_id, savepoint, stop=True)
    found = {"job_id": job_id, "savepoint": location}
    command = submit_command(call, location, call.job.arguments)
    call.print(found, found | {"to go on": f"{command} --wait"})


def submit_command(call: Call, savepoint: str, arguments: Sequence[str] = ()) -> str:
    options = list(arguments)
    if call.config:
        options += ["--config", str(call.config)]
    return shlex.join(["liveprofile", "job", "submit", "--savepoint", savepoint, *options])


def savepoint(call: JobCall, folder: SavepointFolderOption = None, job: JobOption = None) -> None:
    """Take a savepoint of the job, which goes on.

    A second job of a new version starts from it beside this one (docs/operate.md).

    Example: `liveprofile job savepoint --savepoint file:///shared/savepoints`
    """
    rest_url, job_id = _running_job(call, job)
    location = rest.savepoint(rest_url, job_id, folder)
    call.print({"job_id": job_id, "savepoint": location})


def cancel(call: JobCall, job: JobOption = None) -> None:
    """End the job without a savepoint. Its last retained checkpoint remains.

    A job that starts without a savepoint or checkpoint reads the topic again and knows nothing
    of earlier events. Use `stop` to go on later.

    Example: `liveprofile job cancel`
    """
    rest_url, job_id = _running_job(call, job)
    rest.cancel(rest_url, job_id)
    call.print({"job_id": job_id, "checkpoint": last_checkpoint_path(rest_url, job_id)})


def _running_job(call: JobCall, job: str | None) -> tuple[str, str]:
    """Flink's REST address and the id of the running job. Raises LiveprofileError."""
    rest_url = call.settings.flink.rest_url
    return rest_url, require_running_job(rest_url, call.settings.job.name, job)


def upgrade(
    call: JobCall,
    fallback: Path | None = None,
    savepoint: SavepointFolderOption = None,
    job: JobOption = None,
) -> None:
    """Stop the job with a savepoint and start a new one from it, with this version and settings.

    The new job runs when all its tasks run and its first checkpoint is complete. If it does not, it
    is cancelled. With --fallback the old job then goes on: exit code 1. Without it nothing runs,
    and the message names the savepoint: exit code 3.

    Example: `liveprofile job upgrade --config new.toml --fallback old.toml`

    Options:
    fallback FILE: Settings file of the running job. If the new job does not run, a job with these
        settings goes on from the savepoint.
    """
    old = None if fallback is None else only_job(load(fallback), call.job.pipeline)
    check_submission(call.settings)
    rest_url, job_id = _running_job(call, job)

    def stop() -> str:
        location = rest.savepoint(rest_url, job_id, savepoint, stop=True)
        print_line(f"job {job_id} is stopped, savepoint {location}")
        return location

    result = replace_job(
        stop,
        partial(start_job, call.job, call.file),
        old and partial(start_job, old, fallback),
        print_line,
        call.job.arguments,
    )
    call.print(result._asdict())
    if result.failure:  # no other job follows
        raise LiveprofileError(f"the job of {fallback} goes on: {result.failure}")
