"""Submits jobs with their code to any Flink cluster."""

import os
import re
import subprocess
import tempfile
import urllib.parse
import zipfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from liveprofile.errors import ServiceError
from liveprofile.flink import jars, launcher
from liveprofile.flink.rest import failure_reason, overview
from liveprofile.resources import ROOT

PACKAGES = ("liveprofile", "jobs", "udfs", "models")
SUBMIT_TIMEOUT_S = 600  # planning takes half a minute of CPU time


def code_archive(target: Path) -> Path:
    """Zips the Python files of PACKAGES to `target`, for `pyfs` of flink_run.

    The workers of a cluster then run the code that was submitted with the job. Raises
    ServiceError if a package is not installed.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in PACKAGES:
            spec = find_spec(package)
            if spec is None or not spec.submodule_search_locations:
                raise ServiceError(f"the package {package} is not installed with this Python")
            folder = Path(spec.submodule_search_locations[0])
            for source in sorted(folder.rglob("*.py")):
                archive.write(source, Path(package) / source.relative_to(folder))
    return target


def flink_run(
    rest_url: str,
    job: Path | str,
    args: Sequence[str] = (),
    python: Path | str | None = None,
    pyfs: Sequence[Path | str] = (),
    savepoint: str | None = None,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Submits the PyFlink file `job` detached and returns its job id (32 hex digits).

    `args`: the job's own arguments.
    `python`: the interpreter of client and workers, at the same path on all machines; None means
    this project's virtual environment.
    `pyfs`: zips or folders for the workers' Python path; empty means a new `code_archive`.
    `savepoint`: folder of a savepoint or retained checkpoint to start from.
    `variables`: of the client's environment, besides those of this process.
    Raises ServiceError with the reason if the submission fails.
    """
    jars.require()
    if not Path(job).is_file():
        raise ServiceError(f"no job file at {job}")
    overview(rest_url)  # raises one clear line if no cluster answers, before the client does
    options = ["--detached"]
    if savepoint:
        options += ["--fromSavepoint", savepoint]
    python = python or ROOT / ".venv" / "bin" / "python"
    with tempfile.TemporaryDirectory(prefix="liveprofile-submit-") as name:
        folder = Path(name)
        files = pyfs or [code_archive(folder / "liveprofile.zip")]
        printed = run_client(
            folder,
            _client_options(rest_url),
            job,
            args,
            python,
            files,
            options,
            environment=os.environ | variables,
        )
    job_id = re.search(r"JobID ([0-9a-f]{32})", printed)
    if not job_id:
        raise ServiceError(f"{job} was not submitted: {failure_reason(printed)}")
    return job_id.group(1)


def run_client(
    folder: Path,
    configuration: dict[str, Any],
    job: Path | str,
    args: Sequence[str],
    python: Path | str,
    pyfs: Sequence[Path | str],
    options: Sequence[str] = (),
    jvm: Sequence[str] = (),
    environment: Mapping[str, str] = os.environ,
) -> str:
    """Runs `flink run` for `job` with its files in `folder`, and returns what it prints.

    `args`, `python`, `pyfs`: as of flink_run. `options`: of `flink run`. `jvm`: of its JVM.
    Raises ServiceError with the reason if it fails or takes longer than SUBMIT_TIMEOUT_S.
    """
    launcher.write_configuration(folder / "conf", configuration, client=True)
    launcher.link_jars(folder / "lib")
    (folder / "tmp").mkdir()
    command = [*launcher.client_command(folder, *jvm), "run", *options]
    command += ["--python", str(Path(job).resolve()), "--pyFiles", ",".join(map(str, pyfs))]
    command += ["--pyExecutable", str(python), "--pyClientExecutable", str(python), *args]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**environment, **launcher.environment(folder)},
            timeout=SUBMIT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ServiceError(f"{job} was not submitted in {SUBMIT_TIMEOUT_S} s") from None
    if done.returncode:
        reason = failure_reason(done.stdout + done.stderr)
        raise ServiceError(f"{job} was not submitted: {reason}")
    return done.stdout


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
