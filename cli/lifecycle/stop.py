"""`liveprofile job stop` and `cancel` end the running job, `savepoint` lets it go on."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cli.common import ConfigOption, JsonOption, print_json, read_settings
from cli.pipeline.submit import refuse_relative

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
