"""What operators look at: audits, drift, and rejected records."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson
from cassandra.cluster import Session

from intake.files.rejected import RejectedRecord, last_ranges, latest_records
from liveprofile.drift.reference import DriftReference
from liveprofile.drift.store import CassandraDriftStore, DriftDecision, DriftState
from liveprofile.flink.job_report import is_reported, job_warnings, report, scoring_report
from liveprofile.flink.jobs import Job
from liveprofile.flink.operator_metrics import model_report, operator_metrics
from liveprofile.kafka.offsets import lag, scoring_group
from liveprofile.resources import product_path
from liveprofile.settings import Settings
from liveprofile.storage.cql import now_ms
from services.chores import ChoreStore, overdue
from services.event_audit.results import AuditResult, read_results

log = logging.getLogger(__name__)

REJECTED_OFFSETS = 250
# The topic may have millions of records, each of `limits.max_payload_chars`.
PAYLOAD_START_BYTES = 400


class DriftHistory(NamedTuple):
    reference: str  # its version
    state: DriftState
    hours: Sequence[DriftDecision]  # newest first


def job_status(running: Job) -> dict[str, Any]:
    """What Flink and Kafka tell of a running job, with its warnings. Raises ServiceError."""
    settings = running.settings
    rest_url, checkpoint = settings.flink.rest_url, product_path(settings.model.checkpoint)
    job = report(rest_url, settings.job.name)
    metrics = operator_metrics(rest_url, job.job_id, is_reported)
    models, scoring, lag_scoring = model_report(metrics), None, None
    if running.has("scoring"):
        lag_scoring = lag(settings, scoring_group(settings.kafka))
        scoring = scoring_report(metrics)
    card = checkpoint / "card.json"  # it may be on another machine
    interval_ms = settings.job.checkpoint_interval_ms
    return job._asdict() | {
        "name": settings.job.name,
        "checkpoint": job.checkpoint and job.checkpoint._asdict(),
        "lag_events": lag(settings) if running.has("profile") else None,
        "lag_scoring": lag_scoring,
        "scoring": scoring and scoring._asdict(),
        "model_version": orjson.loads(card.read_bytes())["version"] if card.is_file() else None,
        "models": models and models._asdict(),
        "warnings": list(job_warnings(job, interval_ms, scoring, models)),
    }


def chore_status(session: Session, settings: Settings) -> dict[str, Any]:
    """When each chore has last succeeded, and warnings of those that are overdue."""
    runs = ChoreStore(session, settings).runs()
    return {
        "chores": {name: {"succeeded_ms": run.succeeded_ms or None} for name, run in runs.items()},
        "warnings": list(overdue(settings, runs, now_ms())),
    }


def audits(session: Session, settings: Settings, limit: int) -> list[AuditResult]:
    """What `liveprofile events audit` has found, newest first."""
    return list(read_results(session, settings.topics.events, limit))


def drift(session: Session, settings: Settings, hours: int) -> DriftHistory | None:
    """Of the fraud model's input. None: it is not monitored."""
    reference = DriftReference.load(product_path(settings.scoring.checkpoint))
    if reference is None:
        return None
    store = CassandraDriftStore(session, settings.cassandra, settings.scoring.score_ttl_s)
    version = reference.version
    return DriftHistory(version, store.state(version), store.decisions(version, hours))


def rejected_records(session: Session, settings: Settings, limit: int) -> list[RejectedRecord]:
    """The newest first, of the last REJECTED_OFFSETS of each partition; starts of payloads."""
    ranges = last_ranges(settings, REJECTED_OFFSETS)
    return latest_records(settings, ranges, None, limit, log.warning, PAYLOAD_START_BYTES)
