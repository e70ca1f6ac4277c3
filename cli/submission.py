"""Submits the profile job with what it needs, and replaces a running one."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from cli.progress import print_line
from liveprofile.errors import ConfigError, LiveprofileError, ServiceError
from liveprofile.flink import rest
from liveprofile.flink.jobs import Job
from liveprofile.flink.submission import flink_run
from liveprofile.kafka.topics import create_topics
from liveprofile.resources import ROOT, product_path
from liveprofile.settings import Settings
from liveprofile.storage.schema import create_schema
from models.profile.model_card import ModelCard
from services.definitions import KINDS, read_definitions
from services.privacy.decision_topics import fill_topics

JOB = ROOT / "jobs" / "profile_job.py"
RUNNING_TIMEOUT_S = 180.0
# A checkpoint completes after the job has stored what it read, so the first one proves that it can.
# Before it the workers start, and the job works through what waits in the topic.
CHECKPOINT_TIMEOUT_S = 180.0
CHECKPOINT_INTERVALS = 3


def submit_job(
    job: Job,
    settings_file: Path | None,
    savepoint: str | None = None,
    arguments: Sequence[str] = (),
    variables: Mapping[str, str] = MappingProxyType({}),
) -> tuple[str, list[str]]:
    """Returns the job's id and the topics that were created.

    arguments: of jobs/profile_job.py, besides the settings file. variables: settings for the job
    as variables of its environment, which win over the file.

    Tables are created while Flink's client plans the job, which takes longer. If that fails, the
    job is cancelled. Raises LiveprofileError.
    """
    settings = job.settings
    arguments = [*job.arguments, *arguments]
    if settings_file:
        arguments = ["--config", str(settings_file.resolve()), *arguments]
    card = check_submission(settings)
    topics = create_topics(settings)
    with ThreadPoolExecutor(1) as pool:
        tables = pool.submit(create_tables, settings, card)
        job_id = flink_run(
            settings.flink.rest_url,
            JOB,
            arguments,
            python=sys.executable,
            savepoint=savepoint,
            variables=variables,
        )
        try:
            tables.result()
        except BaseException:
            rest.cancel(settings.flink.rest_url, job_id)
            raise
    return job_id, topics


def check_submission(settings: Settings) -> ModelCard:
    """The card of the user model that the job serves.

    Raises LiveprofileError for what the job would refuse, before anything is created.
    """
    for kind in KINDS:
        read_definitions(kind, product_path(getattr(settings, kind)), lambda: settings)
    card = ModelCard.read(product_path(settings.model.checkpoint))
    if settings.consent.mode is None:
        raise ConfigError(
            'set consent.mode: "opt-in" allows nothing of a user who has said nothing, "opt-out"'
            " everything (docs/privacy.md#consent)"
        )
    return card


def create_tables(settings: Settings, card: ModelCard) -> list[str]:
    """Adds tables, columns and indexes that are missing and returns their names, then fills the
    topics of users' decisions. Raises LiveprofileError."""
    added = create_schema(settings.cassandra, card.shape["embedding"])
    for topic, users in fill_topics(settings).items():
        if users:
            print_line(f"topic {topic} was missing: it has the decisions of {users} users again")
    return added


class UpgradeResult(NamedTuple):
    """The job that runs now. `failure`: why it is the old one; None if it is the new one."""

    job_id: str
    savepoint: str
    failure: str | None


def replace_job(
    stop: Callable[[], str],
    start_new: Callable[[str], str],
    start_old: Callable[[str], str] | None,
    on_step: Callable[[str], None] = lambda step: None,
    arguments: Sequence[str] = (),
) -> UpgradeResult:
    """Stops a job, and starts another from its savepoint.

    stop: returns the savepoint. start_new, start_old: start a job from a savepoint and return its
    id, or leave no job behind and raise LiveprofileError. arguments: of the job.
    Raises ServiceError that names the savepoint if no job runs at the end.
    """
    location = stop()
    command = shlex.join(["liveprofile", "job", "submit", *arguments, "--savepoint", location])
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


def start_job(job: Job, file: Path | None, savepoint: str) -> str:
    """Starts a job and waits until it runs; cancels it if it does not. Raises LiveprofileError."""
    rest_url = job.settings.flink.rest_url
    job_id, _ = submit_job(job, file, savepoint)
    interval_s = job.settings.job.checkpoint_interval_ms / 1_000
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
