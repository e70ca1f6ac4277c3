"""`liveprofile job upgrade`: replaces the running job by a new version that keeps its state."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import typer

from cli.common import Call
from cli.job import JobOption, SavepointFolderOption
from cli.progress import print_line
from cli.submission import check_submission, submit_job
from liveprofile.errors import LiveprofileError, ServiceError
from liveprofile.flink import rest
from liveprofile.flink.job_report import require_running_job
from liveprofile.settings import Settings, load

RUNNING_TIMEOUT_S = 180.0
# A checkpoint completes after the job has stored what it read, so the first one proves that it can.
CHECKPOINT_TIMEOUT_S = 60.0
CHECKPOINT_INTERVALS = 3


class UpgradeResult(NamedTuple):
    """The job that runs now. `failure`: why it is the old one; None if it is the new one."""

    job_id: str
    savepoint: str
    failure: str | None


def upgrade(
    call: Call,
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
    settings, file = call.settings, call.file
    old_settings = None if fallback is None else load(fallback)
    check_submission(settings)
    job_id = require_running_job(settings.flink.rest_url, settings.job.name, job)

    def stop() -> str:
        location = rest.stop_with_savepoint(settings.flink.rest_url, job_id, savepoint)
        print_line(f"job {job_id} is stopped, savepoint {location}")
        return location

    result = replace_job(
        stop,
        partial(start, settings, file),
        old_settings and partial(start, old_settings, fallback),
        print_line,
    )
    call.print(result._asdict())
    if result.failure:
        raise typer.Exit(1)


def replace_job(
    stop: Callable[[], str],
    start_new: Callable[[str], str],
    start_old: Callable[[str], str] | None,
    on_step: Callable[[str], None] = lambda step: None,
) -> UpgradeResult:
    """Stops a job, and starts another from its savepoint.

    stop: returns the savepoint. start_new, start_old: start a job from a savepoint and return its
    id, or leave no job behind and raise LiveprofileError.
    Raises ServiceError that names the savepoint if no job runs at the end.
    """
    location = stop()
    command = shlex.join(["liveprofile", "job", "submit", "--savepoint", location])
    try:
        return UpgradeResult(start_new(location), location, None)
    except LiveprofileError as error:
        failure = str(error)
    on_step(f"the new job does not run: {failure}")
    if start_old is None:
        raise ServiceError(
            f"the new job does not run and no job runs now: {failure}. The old job's state is in"
            f" {location}: correct the settings and run `{command} --wait`"
        )
    on_step("starting the old job again")
    try:
        return UpgradeResult(start_old(location), location, failure)
    except LiveprofileError as error:
        raise ServiceError(
            f"neither the new job runs ({failure}) nor the old one ({error}). The old job's state"
            f" is in {location}: run `{command} --wait` with the old version and settings"
        ) from None


def start(settings: Settings, file: Path | None, savepoint: str) -> str:
    """Starts a job and waits until it runs; cancels it if it does not. Raises LiveprofileError."""
    rest_url = settings.flink.rest_url
    job_id, _ = submit_job(settings, file, savepoint)
    interval_s = settings.job.checkpoint_interval_ms / 1_000
    try:
        rest.wait_until_running(rest_url, job_id, RUNNING_TIMEOUT_S)
        rest.wait_for_first_checkpoint(
            rest_url, job_id, CHECKPOINT_TIMEOUT_S + CHECKPOINT_INTERVALS * interval_s
        )
    except BaseException:
        if rest.job_state(rest_url, job_id) not in rest.TERMINAL_STATES:
            rest.cancel(rest_url, job_id)
        raise
    return job_id
