"""State, throughput and checkpoints of a job from Flink's REST interface."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from liveprofile.errors import InputError, LiveprofileError, ServiceError
from liveprofile.flink.rest import TERMINAL_STATES, request, running_tasks, vertex_metrics

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


def running_jobs(rest_url: str, name: str) -> list[str]:
    """The ids of the jobs with this name that have not ended. Raises ServiceError."""
    jobs = request(rest_url, "/jobs/overview")["jobs"]
    return [
        job["jid"] for job in jobs if job["name"] == name and job["state"] not in TERMINAL_STATES
    ]


def require_running_job(rest_url: str, name: str, job_id: str | None = None) -> str:
    """The id of the job that runs, as `choose_running_job` chooses it. Raises what it raises.

    Raises ServiceError if Flink does not answer.
    """
    jobs = request(rest_url, "/jobs/overview")["jobs"]
    running = {job["jid"]: job["name"] for job in jobs if job["state"] not in TERMINAL_STATES}
    return choose_running_job(running, rest_url, name, job_id)


def choose_running_job(
    running: Mapping[str, str], rest_url: str, name: str, job_id: str | None
) -> str:
    """The job with `job_id`, else the only one with this name.

    running: names by id. Raises LiveprofileError if it does not run, InputError if several have the
    name.
    """
    others = ", ".join(f"{its_name} {each}" for each, its_name in running.items()) or "nothing"
    if job_id is not None:
        if job_id not in running:
            raise LiveprofileError(f"no job {job_id} runs at {rest_url}, which runs {others}")
        return job_id
    named = [each for each, its_name in running.items() if its_name == name]
    if not named:
        raise LiveprofileError(f"no job named {name} runs at {rest_url}, which runs {others}")
    if len(named) > 1:
        raise InputError(
            f"{len(named)} jobs named {name} run at {rest_url}: choose one with --job:"
            f" {', '.join(named)}"
        )
    return named[0]


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
    return JobReport(
        job_id=job_id,
        state=job["state"],
        uptime_s=job["duration"] / 1_000,
        restarts=int(_job_metric(rest_url, job_id, "numRestarts")),
        tasks_running=running,
        tasks=tasks,
        events_per_second=sum(
            _source_rate(rest_url, job_id, vertex["id"]) for vertex in job["vertices"]
        ),
        checkpoint=_checkpoint(checkpoints.get("latest", {}).get("completed")),
        checkpoints_failed=checkpoints.get("counts", {}).get("failed", 0),
    )


def _checkpoint(completed: dict[str, Any] | None) -> CheckpointReport | None:
    if not completed:
        return None
    return CheckpointReport(
        age_s=max(0.0, time.time() - completed["latest_ack_timestamp"] / 1_000),
        duration_ms=completed["end_to_end_duration"],
        size_bytes=completed["state_size"],
    )


def _job_metric(rest_url: str, job_id: str, name: str) -> float:
    metrics = request(rest_url, f"/jobs/{job_id}/metrics?get={name}")
    # Shortly after the start there are no metrics.
    return float(metrics[0]["value"]) if metrics else 0.0


def _source_rate(rest_url: str, job_id: str, vertex_id: str) -> float:
    """Events per second that the vertex reads; 0 for a vertex without the source of events."""
    rates = vertex_metrics(rest_url, job_id, vertex_id, EVENT_SOURCE_RATE.match, "sum")
    return sum(rates.values())
