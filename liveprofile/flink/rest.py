"""Flink's REST interface: job states, failures, savepoints, metrics."""

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from liveprofile.errors import ServiceError, ServiceUnavailableError
from liveprofile.retry import until_deadline

TERMINAL_STATES = {"FINISHED", "CANCELED", "FAILED"}
SAVEPOINT_TIMEOUT_S = 600.0


def request(rest_url: str, path: str, method: str = "GET", body: Any = None) -> dict[str, Any]:
    """One call of Flink's REST interface; returns the parsed answer.

    A GET is sent again if Flink does not answer in time (liveprofile/retry.py).
    Raises ServiceError with the address and Flink's reason if Flink refuses or does not answer.
    """
    if method == "GET":
        return until_deadline(lambda: _request(rest_url, path, method, body))
    return _request(rest_url, path, method, body)


def _request(rest_url: str, path: str, method: str, body: Any) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    call = urllib.request.Request(
        rest_url.rstrip("/") + path,
        data=data,
        method=method,
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(call, timeout=30) as answer:
            text = answer.read()
    except urllib.error.HTTPError as error:
        with error:
            detail = _first_error(error.read())
        raise ServiceError(f"Flink at {rest_url} refuses {method} {path}: {detail}") from None
    except OSError as error:  # URLError and timeouts are OSErrors
        reason = getattr(error, "reason", error)
        timed_out = isinstance(reason, TimeoutError)
        kind = ServiceUnavailableError if timed_out else ServiceError
        raise kind(f"no Flink JobManager answers at {rest_url}: {reason}") from None
    return json.loads(text) if text else {}


def _first_error(body: bytes) -> str:
    """The innermost cause in Flink's error answer, else its exception, else its first line."""
    try:
        text = "\n".join(json.loads(body).get("errors", []))
    except ValueError:
        return body[:200].decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    exceptions = [line for line in lines if re.match(r"[\w.]+Exception: ", line)]
    return (_causes(lines)[-1:] or exceptions[:1] or lines[:1] or ["no reason given"])[0]


def _causes(lines: list[str]) -> list[str]:
    """The causes in the lines of a Java stack trace, the innermost last."""
    start = "Caused by: "
    return [line.removeprefix(start) for line in lines if line.startswith(start)]


def overview(rest_url: str) -> dict[str, Any]:
    """Slots, TaskManagers and job counts of the cluster. Raises ServiceError."""
    return request(rest_url, "/overview")


def job_state(rest_url: str, job_id: str) -> str:
    """RUNNING, RESTARTING, FINISHED, CANCELED, FAILED and so on.

    Raises ServiceError for an unknown job.
    """
    return request(rest_url, f"/jobs/{job_id}/status")["status"]


def root_exception(rest_url: str, job_id: str) -> str:
    """Stack trace of the job's latest failure in Flink's history; "" if there is none."""
    history = request(rest_url, f"/jobs/{job_id}/exceptions").get("exceptionHistory", {})
    entries = history.get("entries", [])
    return entries[0]["stacktrace"] if entries else ""


def _wait(
    rest_url: str, job_id: str, timeout_s: float, look: Callable[[], tuple[bool, str, str]]
) -> str:
    """Returns the state when `look` says that it is the one that is waited for.

    look: whether it is, the job's state, and what is missing. Raises ServiceError with the cause if
    the job ends before, or after `timeout_s`.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        is_there, state, missing = look()
        if is_there:
            return state
        if state in TERMINAL_STATES or time.monotonic() > deadline_s:
            reason = failure_reason(root_exception(rest_url, job_id))
            reason = reason or f"no failure yet; are there free slots at {rest_url}?"
            raise ServiceError(f"job {job_id} is {state} {missing}: {reason}")
        time.sleep(0.2)


def wait_for_state(rest_url: str, job_id: str, states: set[str], timeout_s: float) -> str:
    """Waits until the job is in one of `states` and returns that state.

    Raises ServiceError if the job ends in another state or after `timeout_s`.
    """

    def look() -> tuple[bool, str, str]:
        state = job_state(rest_url, job_id)
        return state in states, state, f"and not {'/'.join(sorted(states))}"

    return _wait(rest_url, job_id, timeout_s, look)


def wait_until_running(rest_url: str, job_id: str, timeout_s: float) -> None:
    """Waits until every task of the job runs.

    Raises ServiceError if the job ends before, or after `timeout_s`.
    """

    def look() -> tuple[bool, str, str]:
        job = request(rest_url, f"/jobs/{job_id}")
        running, tasks = running_tasks(job)
        return running == tasks > 0, job["state"], f"with {running} of {tasks} tasks running"

    _wait(rest_url, job_id, timeout_s, look)


def wait_for_first_checkpoint(rest_url: str, job_id: str, timeout_s: float) -> None:
    """Waits until the job has completed a checkpoint of its own.

    Raises ServiceError if the job ends before, or after `timeout_s`.
    """

    def look() -> tuple[bool, str, str]:
        if request(rest_url, f"/jobs/{job_id}/checkpoints")["counts"]["completed"]:
            return True, "", ""
        return False, job_state(rest_url, job_id), "without a checkpoint"

    _wait(rest_url, job_id, timeout_s, look)


def running_tasks(job: dict[str, Any]) -> tuple[int, int]:
    """Running tasks and all tasks of a job, from the answer of /jobs/<id>."""
    running = sum(vertex["tasks"].get("RUNNING", 0) for vertex in job["vertices"])
    return running, sum(vertex["parallelism"] for vertex in job["vertices"])


def cancel(rest_url: str, job_id: str) -> None:
    """Cancels the job without a savepoint and waits for its end. Raises ServiceError."""
    request(rest_url, f"/jobs/{job_id}?mode=cancel", "PATCH")
    wait_for_state(rest_url, job_id, {"CANCELED"}, timeout_s=60)


def savepoint(rest_url: str, job_id: str, folder: str | None, *, stop: bool = False) -> str:
    """Takes a savepoint of a job, which then ends or goes on, and returns its path.

    folder: a URI of the cluster's file system; None: the cluster's folder for savepoints. Raises
    ServiceError.
    """
    wait_until_running(rest_url, job_id, SAVEPOINT_TIMEOUT_S)
    path = f"/jobs/{job_id}/" + ("stop" if stop else "savepoints")
    body = (
        {"targetDirectory": folder, "drain": False}
        if stop
        else {"target-directory": folder, "cancel-job": False}
    )
    trigger = request(rest_url, path, "POST", body)["request-id"]
    location = _wait_for_savepoint(rest_url, job_id, trigger)
    if stop:
        wait_for_state(rest_url, job_id, {"FINISHED"}, timeout_s=60)
    return location


def _wait_for_savepoint(rest_url: str, job_id: str, trigger: str) -> str:
    deadline_s = time.monotonic() + SAVEPOINT_TIMEOUT_S
    while time.monotonic() < deadline_s:
        answer = request(rest_url, f"/jobs/{job_id}/savepoints/{trigger}")
        if answer["status"]["id"] == "COMPLETED":
            failure = answer["operation"].get("failure-cause")
            if failure:
                raise ServiceError(
                    f"no savepoint of job {job_id}: {failure_reason(failure['stack-trace'])}"
                )
            return answer["operation"]["location"]
        time.sleep(0.2)
    raise ServiceError(f"no savepoint of job {job_id} in {SAVEPOINT_TIMEOUT_S:.0f} s")


def failure_reason(output: str) -> str:
    """The cause of a failure in the output of a job or a client.

    In this order: the message that the job prints (`profile_job: ...`), its Python error, the
    innermost Java cause, the last 10 lines.
    """
    stripped = map(str.strip, output.splitlines())
    lines = [line for line in stripped if line and not line.startswith("at ")]
    messages = [line for line in lines if re.match(r"\w+_job: ", line)]
    if messages:
        return messages[-1].partition(": ")[2]
    causes = [line for line in _causes(lines) if "Python process exits with code" not in line]
    if "Traceback (most recent call last):" in output:
        raised = [line for line in lines if re.match(r"[A-Za-z_][\w.]*(Error|Exception): ", line)]
        python = [line for line in raised if not line.startswith(("org.apache.", "java.", "py4j."))]
        if python:
            return python[-1]
    return causes[-1] if causes else "\n".join(lines[-10:])
