"""State, throughput and checkpoints of a job from Flink's REST interface."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from liveprofile.errors import InputError, LiveprofileError, ServiceError
from liveprofile.flink.operator_metrics import (
    ModelReport,
    OverSubtasks,
    is_model_gauge,
    operator_metrics,
)
from liveprofile.flink.rest import TERMINAL_STATES, request, running_tasks

# The profile pipeline's source of events. The scoring pipeline reads the same topic again.
EVENT_SOURCE_RATE = re.compile(r"Source__source\[\d+\]\.numRecordsInPerSecond$")


class CheckpointReport(NamedTuple):
    """The last completed checkpoint of a job."""

    age_s: float
    duration_ms: int
    size_bytes: int  # of the full state, not of the increment


class JobReport(NamedTuple):
    job_id: str
    state: str
    uptime_s: float
    restarts: int
    tasks_running: int
    tasks: int
    events_per_second: float  # read from the input topic
    checkpoint: CheckpointReport | None
    checkpoints_failed: int


def find_job(rest_url: str, name: str) -> dict[str, Any]:
    """The running job with this name, else the job with this name that started last.

    Raises ServiceError if the cluster does not answer or has no job with this name.
    """
    jobs = request(rest_url, "/jobs/overview")["jobs"]
    named = [job for job in jobs if job["name"] == name]
    if not named:
        others = ", ".join(sorted({job["name"] for job in jobs})) or "none"
        raise ServiceError(
            f"Flink at {rest_url} has no job named {name} (its jobs: {others});"
            " `liveprofile job submit` starts it"
        )
    return max(named, key=lambda job: (job["state"] not in TERMINAL_STATES, job["start-time"]))


def running_names(rest_url: str) -> dict[str, str]:
    """By id, the names of the jobs that have not ended."""
    jobs = request(rest_url, "/jobs/overview")["jobs"]
    return {job["jid"]: job["name"] for job in jobs if job["state"] not in TERMINAL_STATES}


def running_jobs(rest_url: str, name: str) -> list[str]:
    """The ids of the jobs with this name that have not ended. Raises ServiceError."""
    return [job_id for job_id, its_name in running_names(rest_url).items() if its_name == name]


def require_running_job(rest_url: str, name: str, job_id: str | None = None) -> str:
    """The running job with `job_id`, else the only one with this name.

    Raises LiveprofileError if it does not run, InputError if several have the name, ServiceError if
    Flink does not answer.
    """
    running = running_names(rest_url)
    found = [
        each for each in running if (running[each] == name if job_id is None else each == job_id)
    ]
    if len(found) > 1:
        raise InputError(
            f"{len(found)} jobs named {name} run at {rest_url}: choose one with --job:"
            f" {', '.join(found)}"
        )
    if not found:
        others = ", ".join(f"{its_name} {each}" for each, its_name in running.items()) or "nothing"
        wanted = f"job named {name}" if job_id is None else f"job {job_id}"
        raise LiveprofileError(f"no {wanted} runs at {rest_url}, which runs {others}")
    return found[0]


def last_checkpoint_path(rest_url: str, job_id: str) -> str | None:
    """The folder of the job's last completed checkpoint, which a cancelled job leaves."""
    latest = request(rest_url, f"/jobs/{job_id}/checkpoints").get("latest", {})
    return (latest.get("completed") or {}).get("external_path")


def report(rest_url: str, name: str) -> JobReport:
    """State, throughput and last checkpoint of the job with this name. Raises ServiceError."""
    job_id = find_job(rest_url, name)["jid"]
    job = request(rest_url, f"/jobs/{job_id}")
    checkpoints = request(rest_url, f"/jobs/{job_id}/checkpoints")
    running, tasks = running_tasks(job)
    restarts = request(rest_url, f"/jobs/{job_id}/metrics?get=numRestarts")
    checkpoint = None
    if completed := checkpoints.get("latest", {}).get("completed"):
        checkpoint = CheckpointReport(
            age_s=max(0.0, time.time() - completed["latest_ack_timestamp"] / 1_000),
            duration_ms=completed["end_to_end_duration"],
            size_bytes=completed["state_size"],
        )
    return JobReport(
        job_id=job_id,
        state=job["state"],
        uptime_s=job["duration"] / 1_000,
        # Shortly after the start there are no metrics.
        restarts=int(float(restarts[0]["value"])) if restarts else 0,
        tasks_running=running,
        tasks=tasks,
        events_per_second=sum(
            each.sum
            for each in operator_metrics(rest_url, job_id, EVENT_SOURCE_RATE.match).values()
        ),
        checkpoint=checkpoint,
        checkpoints_failed=checkpoints.get("counts", {}).get("failed", 0),
    )


OVERDUE_INTERVALS = 3
SLACK_S = 5.0  # a checkpoint itself takes time


def job_warnings(
    job: JobReport, interval_ms: int, scoring: ScoringReport | None, models: ModelReport | None
) -> Iterator[str]:
    """What an operator should look at. interval_ms: the setting job.checkpoint_interval_ms."""
    age_s = job.uptime_s if job.checkpoint is None else job.checkpoint.age_s
    if age_s > OVERDUE_INTERVALS * interval_ms / 1_000 + SLACK_S:
        yield (
            f"no checkpoint has completed for {age_s:.0f} s, {job.checkpoints_failed} have"
            " failed: after a failure the job reads this time again. Is the checkpoint folder full,"
            " or not writable?"
        )
    if scoring and scoring.unscored:
        yield f"{scoring.unscored} events could not be scored: the TaskManagers' logs say why"
    if models and models.refused:
        yield (
            f"a worker has refused {models.refused} deployments of the user model and serves an"
            " earlier one: the TaskManagers' logs say why"
        )
    if models and models.lowest_revision != models.highest_revision:
        yield (
            f"workers serve user models of revision {models.lowest_revision} to"
            f" {models.highest_revision}: for seconds after a change; later, some have refused it"
        )


_SCORING_COUNTER = re.compile(r"\.liveprofile\.events\.(rows|duplicates|unscored)$")


class ScoringReport(NamedTuple):
    """Events since the last start or restart of the job."""

    events: int  # that were to be scored, duplicates included
    unscored: int  # of `events`: could not be read or scored; the log has the reason


def is_reported(name: str) -> bool:
    """Whether a report is made from this metric of an operator."""
    return bool(_SCORING_COUNTER.search(name)) or is_model_gauge(name)


def scoring_report(metrics: Mapping[str, OverSubtasks]) -> ScoringReport | None:
    """Makes the report from the metrics of all operators; None if they have none yet."""
    counts: dict[str, int] = {}
    for name, value in metrics.items():
        if match := _SCORING_COUNTER.search(name):
            counts[match[1]] = counts.get(match[1], 0) + int(value.sum)
    if "rows" not in counts:
        return None
    return ScoringReport(counts["rows"] + counts.get("duplicates", 0), counts.get("unscored", 0))
