"""`liveprofile job submit`: submits the profile job to a Flink cluster."""

from __future__ import annotations

import os
import re
from typing import Annotated

import typer

from cli.common import (
    ConfigOption,
    JsonOption,
    config_file,
    print_fields,
    print_json,
    read_settings,
)


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
    from cli.pipeline.job_submission import submit_job
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
