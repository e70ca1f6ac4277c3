"""The state of a job as Flink's REST interface reports it."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from liveprofile.errors import ServiceError
from liveprofile.flink.rest import ENDED, request, running_tasks, vertex_metrics

_SOURCE_RATE = "numRecordsInPerSecond"


class Checkpoint(NamedTuple):
    """The last completed one."""

    age_s: float
    duration_ms: int
    size_bytes: int  # of the whole state, not of the increment


class JobReport(NamedTuple):
    job_id: str
    state: str
    uptime_s: float
    restarts: int
    tasks_running: int
    tasks: int
    events_per_second: float  # read from the input topic
    checkpoint: Checkpoint | None
    checkpoints_failed: int


def find_job(rest_url: str, name: str) -> dict[str, Any]:
    """The running job of this name, else the one started last.

    Raises ServiceError if the cluster does not answer or knows no such job.
    """
    jobs = request(rest_url, "/jobs/overview")["jobs"]
    named = [job for job in jobs if job["name"] == name]
    if not named:
        others = ", ".join(sorted({job["name"] for job in jobs})) or "none"
        raise ServiceError(
            f"Flink at {rest_url} has no job named {name} (its jobs: {others});"
            " `liveprofile submit` starts it"
        )
    return max(named, key=lambda job: (job["state"] not in ENDED, job["start-time"]))


def report(rest_url: str, name: str) -> JobReport:
    """State, rates and last checkpoint of the job of this name. Raises ServiceError."""
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


def _checkpoint(completed: dict[str, Any] | None) -> Checkpoint | None:
    if not completed:
        return None
    return Checkpoint(
        age_s=max(0.0, time.time() - completed["latest_ack_timestamp"] / 1_000),
        duration_ms=completed["end_to_end_duration"],
        size_bytes=completed["state_size"],
    )


def _job_metric(rest_url: str, job_id: str, name: str) -> float:
    found = request(rest_url, f"/jobs/{job_id}/metrics?get={name}")
    return float(found[0]["value"]) if found else 0.0  # none yet, shortly after the start


def _source_rate(rest_url: str, job_id: str, vertex_id: str) -> float:
    """A source's operator metric starts with its name; other vertices have none of that kind."""
    found = vertex_metrics(
        rest_url,
        job_id,
        vertex_id,
        lambda name: name.startswith("Source") and name.endswith(f".{_SOURCE_RATE}"),
        "sum",
    )
    return sum(found.values())
