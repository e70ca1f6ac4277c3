"""What Flink knows: the job, its checkpoints, and the counters of its operators."""

from __future__ import annotations

import re
from collections.abc import Mapping

from liveprofile.flink.job_report import (
    JobReport,
    is_reported,
    report,
    running_jobs,
    scoring_report,
)
from liveprofile.flink.operator_metrics import (
    NO_BOUND,
    LatencyCounts,
    OverSubtasks,
    count_latencies,
    model_report,
    operator_metrics,
)
from liveprofile.settings import Settings
from liveprofile.units import SECOND_MS
from monitoring.catalogue import Readings

_ROWS = re.compile(r"\.liveprofile\.(events\.)?rows$")


def read_flink(settings: Settings) -> Readings:
    """Readings of the job of the settings. Raises ServiceError if Flink does not answer."""
    rest_url, name = settings.flink.rest_url, settings.job.name
    if not running_jobs(rest_url, name):
        stopped = Readings()
        stopped.add("job_running", 0.0)
        return stopped
    job = report(rest_url, name)
    return flink_readings(settings, job, operator_metrics(rest_url, job.job_id, is_needed))


def is_needed(name: str) -> bool:
    """Whether `flink_readings` uses a metric of an operator."""
    return is_reported(name) or _ROWS.search(name) is not None


def flink_readings(
    settings: Settings, job: JobReport, metrics: Mapping[str, OverSubtasks]
) -> Readings:
    """metrics: of all operators that `is_needed` selects."""
    readings = Readings()
    running = job.state == "RUNNING" and job.tasks_running == job.tasks > 0
    readings.add("job_running", float(running))
    readings.add("job_uptime_seconds", job.uptime_s)
    readings.add("job_restarts", job.restarts)
    readings.add("job_tasks_running", job.tasks_running)
    readings.add("job_tasks", job.tasks)
    readings.add("job_events_per_second", job.events_per_second)
    _add_checkpoints(readings, settings, job)
    sums = {name: value.sum for name, value in metrics.items()}
    for name, value in sums.items():
        if match := _ROWS.search(name):
            readings.add("events_scored" if match[1] else "windows_stored", value)
    if settings.scoring.enabled and (scoring := scoring_report(metrics)):
        readings.add("events_to_score", scoring.events)
        readings.add("events_unscored", scoring.unscored)
        readings.add("events_incomplete", scoring.incomplete)
        readings.add("events_lost", scoring.lost)
    if models := model_report(metrics):
        readings.add("model_revision", models.lowest_revision, "lowest")
        readings.add("model_revision", models.highest_revision, "highest")
        readings.add("models_refused", models.refused)
    for name, latency in count_latencies(sums).items():
        readings.add_histogram(
            name.removesuffix("_ms") + "_seconds", _in_seconds(latency), latency.sum_ms / SECOND_MS
        )
    return readings


def _add_checkpoints(readings: Readings, settings: Settings, job: JobReport) -> None:
    readings.add("checkpoint_interval_seconds", settings.job.checkpoint_interval_ms / SECOND_MS)
    readings.add("checkpoints_failed", job.checkpoints_failed)
    if job.checkpoint is None:
        readings.add("checkpoint_age_seconds", job.uptime_s)
        return
    readings.add("checkpoint_age_seconds", job.checkpoint.age_s)
    readings.add("checkpoint_duration_seconds", job.checkpoint.duration_ms / SECOND_MS)
    readings.add("checkpoint_size_bytes", job.checkpoint.size_bytes)


def _in_seconds(latency: LatencyCounts) -> dict[str, int]:
    return {
        bound if bound == NO_BOUND else str(int(bound) / SECOND_MS): count
        for bound, count in latency.buckets.items()
    }
