"""Submits the profile job, and creates what it needs while Flink plans it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from liveprofile.flink import rest
from liveprofile.flink.submission import flink_run
from liveprofile.kafka.topics import create_topics
from liveprofile.resources import ROOT, product_path
from liveprofile.settings import Settings
from liveprofile.storage.schema import create_schema
from models.profile.model_card import ModelCard
from services.definitions import KINDS, read_definitions

JOB = ROOT / "jobs" / "profile_job.py"


def submit_job(
    settings: Settings,
    settings_file: Path | None,
    savepoint: str | None = None,
    arguments: Sequence[str] = (),
) -> tuple[str, list[str]]:
    """Returns the job's id and the topics that were created.

    arguments: of jobs/profile_job.py, besides the settings file.

    Tables are created while Flink's client plans the job, which takes longer. If that fails, the
    job is cancelled. Raises LiveprofileError.
    """
    card = check_submission(settings)
    topics = create_topics(settings)
    with ThreadPoolExecutor(1) as pool:
        tables = pool.submit(create_tables, settings, card)
        job_id = flink_run(
            settings.flink.rest_url,
            JOB,
            [*(["--config", str(settings_file.resolve())] if settings_file else []), *arguments],
            python=sys.executable,
            savepoint=savepoint,
        )
        try:
            tables.result()
        except BaseException:
            rest.cancel(settings.flink.rest_url, job_id)
            raise
    return job_id, topics


def check_submission(settings: Settings) -> ModelCard:
    """Raises LiveprofileError for files that the job would refuse, before anything is created."""
    for kind in KINDS:
        read_definitions(kind, product_path(getattr(settings, kind)), lambda: settings)
    return read_model_card(settings)


def read_model_card(settings: Settings) -> ModelCard:
    """The card of the user model that the job serves. Raises InputError."""
    return ModelCard.read(product_path(settings.model.checkpoint))


def create_tables(settings: Settings, card: ModelCard) -> list[str]:
    """Applies pending migrations of the tables, if the job stores anything; returns their titles.

    Raises LiveprofileError.
    """
    if settings.job.store != "cassandra":
        return []
    return create_schema(settings.cassandra, card.shape["embedding"])
