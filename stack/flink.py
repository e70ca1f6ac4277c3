"""Sends jobs to any Flink cluster and controls them: `flink run` and the REST interface."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from liveprofile.errors import ServiceError
from stack import PROJECT, cluster, jars

PACKAGES = ("liveprofile", "jobs", "udfs", "models")
SUBMIT_TIMEOUT_S = 300
ENDED = {"FINISHED", "CANCELED", "FAILED"}


def code_archive(target: Path, project: Path = PROJECT) -> Path:
    """Zips the Python files of the product's packages to `target`, for `pyfs` of flink_run.

    The workers of a cluster then run the code that the job was submitted with.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in PACKAGES:
            for source in sorted((project / package).rglob("*.py")):
                archive.write(source, source.relative_to(project))
    return target


def flink_run(
    rest_url: str,
    job: Path | str,
    args: Sequence[str] = (),
    python: Path | str | None = None,
    pyfs: Sequence[Path | str] = (),
    savepoint: str | None = None,
    conf: Mapping[str, Any] | None = None,
) -> str:
    """Submits the PyFlink file `job` detached and returns its job id (32 hex digits).

    `args`: the job's own arguments. `python`: the interpreter of client and workers; the workers'
    machines must have it at the same path; None: this project's virtual environment.
    `pyfs`: zips or folders for the workers' path; none: a fresh `code_archive`.
    `savepoint`: folder of a savepoint or retained checkpoint to start from.
    `conf`: Flink options such as {"parallelism.default": 2}.
    Raises ServiceError with the reason if the cluster or the job refuses.
    """
    jars.require()
    if not Path(job).is_file():
        raise ServiceError(f"no job file at {job}")
    overview(rest_url)  # one clear line if nothing answers, instead of the client's stack trace
    python = str(python or PROJECT / ".venv" / "bin" / "python")
    with tempfile.TemporaryDirectory(prefix="liveprofile-submit-") as name:
        folder = Path(name)
        cluster.write_configuration(folder / "conf", _client_options(rest_url), client=True)
        cluster.library(folder / "lib")
        (folder / "tmp").mkdir()
        files = [str(path) for path in pyfs] or [str(code_archive(folder / "liveprofile.zip"))]
        command = [*cluster.client_command(folder), "run", "--detached"]
        for key, value in (conf or {}).items():
            command.append(f"-D{key}={value}")
        if savepoint:
            command += ["--fromSavepoint", savepoint]
        command += [
            "--python", str(Path(job).resolve()), "--pyFiles", ",".join(files),
            "--pyExecutable", python, "--pyClientExecutable", python, *args,
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                env=os.environ | cluster.environment(folder),
                timeout=SUBMIT_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ServiceError(f"{job} was not submitted in {SUBMIT_TIMEOUT_S} s") from None
    found = re.search(r"JobID ([0-9a-f]{32})", done.stdout)
    if done.returncode or not found:
        raise ServiceError(f"{job} was not submitted: {reason(done.stdout + done.stderr)}")
    return found.group(1)


def _client_options(rest_url: str) -> dict[str, Any]:
    address = urllib.parse.urlsplit(rest_url)
    if not address.hostname:
        raise ServiceError(f"flink.rest_url is {rest_url!r}: it must look like http://host:8081")
    secure = address.scheme == "https"
    return {
        "execution.target": "remote",
        "jobmanager.rpc.address": address.hostname,
        "rest.address": address.hostname,
        "rest.port": address.port or (443 if secure else 8081),
        "security.ssl.rest.enabled": secure,
    }


def reason(output: str) -> str:
    """What the job said of itself or its Python error if there is one, else the innermost Java
    cause, else the end."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    said = [line for line in lines if re.match(r"\w+_job: ", line)]
    if said:
        return said[-1].partition(": ")[2]
    causes = [line for line in lines if line.startswith("Caused by: ")]
    causes = [line for line in causes if "Python process exits with code" not in line]
    if "Traceback (most recent call last):" in output:
        raised = [line for line in lines if re.match(r"[A-Za-z_][\w.]*(Error|Exception): ", line)]
        ours = [line for line in raised if not line.startswith(("org.apache.", "java.", "py4j."))]
        if ours:
            return ours[-1]
    if causes:
        return causes[-1].removeprefix("Caused by: ")
    return "\n".join(lines[-10:])


def request(rest_url: str, path: str, method: str = "GET", body: Any = None) -> dict[str, Any]:
    """One call of Flink's REST interface. Raises ServiceError naming the address and the answer."""
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
        raise ServiceError(f"no Flink JobManager answers at {rest_url}: {reason}") from None
    return json.loads(text) if text else {}


def _first_error(body: bytes) -> str:
    """The innermost cause, else the exception, else the first line of Flink's error answer."""
    try:
        errors = json.loads(body).get("errors", [])
    except ValueError:
        return body[:200].decode(errors="replace")
    lines = [line.strip() for error in errors for line in error.splitlines() if line.strip()]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    exceptions = [line for line in lines if re.match(r"[\w.]+Exception: ", line)]
    return (causes[-1:] or exceptions[:1] or lines[:1] or ["no reason given"])[0]


def overview(rest_url: str) -> dict[str, Any]:
    """Slots, TaskManagers and job counts of the cluster. Raises ServiceError if it is not there."""
    return request(rest_url, "/overview")


def job_state(rest_url: str, job_id: str) -> str:
    """RUNNING, RESTARTING, FINISHED, CANCELED, FAILED, ... Raises ServiceError if unknown."""
    return request(rest_url, f"/jobs/{job_id}/status")["status"]


def root_exception(rest_url: str, job_id: str) -> str:
    """The latest failure of the job as Flink keeps it; "" if there was none."""
    history = request(rest_url, f"/jobs/{job_id}/exceptions").get("exceptionHistory", {})
    entries = history.get("entries", [])
    return entries[0]["stacktrace"] if entries else ""


def wait_for(rest_url: str, job_id: str, states: set[str], timeout_s: float) -> str:
    """Waits until the job is in one of `states` and returns it.

    Raises ServiceError if it ends in another one or `timeout_s` passes.
    """
    deadline_s = time.monotonic() + timeout_s
    while (state := job_state(rest_url, job_id)) not in states:
        if state in ENDED:
            why = reason(root_exception(rest_url, job_id)) or "no exception"
            raise ServiceError(f"job {job_id} is {state}, not {'/'.join(sorted(states))}: {why}")
        if time.monotonic() > deadline_s:
            raise ServiceError(
                f"job {job_id} is {state} after {timeout_s:.0f} s, not {'/'.join(sorted(states))}"
            )
        time.sleep(0.2)
    return state


def wait_until_running(rest_url: str, job_id: str, timeout_s: float) -> None:
    """Waits until every task runs: RUNNING alone is said while Python workers still start.

    Raises ServiceError if the job ends instead or `timeout_s` passes.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        wait_for(rest_url, job_id, {"RUNNING"}, deadline_s - time.monotonic())
        tasks = request(rest_url, f"/jobs/{job_id}")["vertices"]
        waiting = [task["name"] for task in tasks if task["status"] != "RUNNING"]
        if not waiting:
            return
        if time.monotonic() > deadline_s:
            raise ServiceError(f"job {job_id}: after {timeout_s:.0f} s {waiting[0]} does not run")
        time.sleep(0.2)


def cancel(rest_url: str, job_id: str, timeout_s: float = 60) -> None:
    """Ends the job without a savepoint and waits for it. Raises ServiceError."""
    request(rest_url, f"/jobs/{job_id}?mode=cancel", "PATCH")
    wait_for(rest_url, job_id, {"CANCELED"}, timeout_s)


def stop_with_savepoint(
    rest_url: str, job_id: str, folder: str, drain: bool = False, timeout_s: float = 600
) -> str:
    """Ends the job gracefully with a savepoint under `folder`, a URI of the cluster's file system.

    Returns the savepoint's path.
    `drain`: first close every open window, for a job that will not go on. Raises ServiceError.
    """
    wait_until_running(rest_url, job_id, timeout_s)
    body = {"targetDirectory": folder, "drain": drain}
    trigger = request(rest_url, f"/jobs/{job_id}/stop", "POST", body)["request-id"]
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        answer = request(rest_url, f"/jobs/{job_id}/savepoints/{trigger}")
        if answer["status"]["id"] == "COMPLETED":
            failure = answer["operation"].get("failure-cause")
            if failure:
                raise ServiceError(
                    f"no savepoint of job {job_id}: {reason(failure['stack-trace'])}"
                )
            wait_for(rest_url, job_id, {"FINISHED"}, timeout_s=60)
            return answer["operation"]["location"]
        time.sleep(0.2)
    raise ServiceError(f"no savepoint of job {job_id} in {timeout_s:.0f} s")
