"""`liveprofile events bootstrap`: builds the job's state from an archive of events."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import typer

from cli.common import (
    ConfigOption,
    JsonOption,
    MappingOption,
    config_file,
    print_fields,
    print_json,
    read_settings,
)
from cli.progress import count_bar, print_line


def bootstrap(
    files: list[Path],
    mapping: MappingOption = None,
    savepoint_dir: str | None = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Build the job's state from past events, for a job that then reads the input topic.

    Runs the job over a temporary topic with the events of the files, and stops it with a savepoint.
    The job that is submitted with this savepoint goes on in the input topic where the files end.

    Example: `liveprofile events bootstrap 2023-10.jsonl 2023-11.jsonl`

    Options:
    files FILE...: CSV, Parquet or JSON lines, in the order of the events.
    savepoint_dir URI: Folder for the savepoint. Default: the cluster's folder for savepoints.
    """
    from cli.pipeline.job_submission import submit_job
    from offline.bootstrap import archive_variables, check_files, run

    check_files(files, mapping)
    live, file = read_settings(config), config_file(config)
    # The job is another process: it reads its settings from the file and the environment.
    os.environ.update(archive_variables(live))
    archive = read_settings(config)
    result = run(
        live,
        archive,
        file,
        files,
        mapping,
        savepoint_dir,
        lambda settings, path, arguments: submit_job(settings, path, arguments=arguments)[0],
        print_line,
        count_bar,
    )
    if json:
        print_json(result._asdict())
        return
    print_fields(result._asdict())
    options = ["--config", str(config)] if config else []
    command = shlex.join(
        ["liveprofile", "job", "submit", "--savepoint", result.savepoint, *options]
    )
    typer.echo(f"Now start the job: {command} --wait")
