"""Faults of one job under a steady load, each after the one before.

After all of them must hold: no event is lost or used twice, every stored profile, score, flag and
alert is as the reference's. Recovery is automatic; a paused or slow part causes no restart.

A source is down until the exporter says so; its alert fires in test_serve.py.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import psutil
import pytest

from liveprofile.errors import ServiceError
from liveprofile.flink import rest
from stack.process import Service
from stack.state import StackState
from tests.faults.loaded_job import RECOVERY_TIMEOUT_S, WINDOW, LoadedJob, open_loaded_job
from tests.support import service_restarts
from tests.support.api_server import api_server
from tests.support.job_under_test import BUSY_JOB, JobUnderTest
from tests.support.local_stack import LocalStack
from tests.support.more_services import SecondTaskManager
from tests.support.prometheus import fires
from tests.support.waiting import until

PAUSE_S = 7.0  # longer than a request to Cassandra may take
SLOW_S = 0.5  # paused and answering in turn
BROKEN_S = 22.0  # about four checkpoints; `job status` warns after three and 5 s
# The parts that cannot be the size of a file: a disk without space refuses the rest of a file.
NO_FILE_BYTES = 0


@pytest.fixture(scope="module")
def loaded_job(new_job: Callable[..., JobUnderTest]) -> Iterator[LoadedJob]:
    job = new_job("faults", job=BUSY_JOB, window=WINDOW)
    job.submit()
    with open_loaded_job(job) as loaded_job:
        yield loaded_job


@pytest.fixture(scope="module")
def exporter(loaded_job: LoadedJob) -> Iterator[str]:
    with api_server(loaded_job.job.config_file, "metrics") as url:
        yield url


class Scene(NamedTuple):
    """What a fault breaks. wait_until_down: waits until the exporter reports a source as down."""

    load: LoadedJob
    stack: LocalStack
    wait_until_down: Callable[[str], object]


# --- how something breaks, and heals when the block ends ------------------------------------------


def paused(part: str) -> Callable[[Scene], None]:
    """Suspends a process (SIGSTOP): its connections stay open and get no answer."""

    def fault(scene: Scene) -> None:
        suspended: Any = (
            scene.stack.taskmanager.workers()[0]
            if part == "Python worker"
            else psutil.Process(scene.stack.services[part].pid)
        )
        suspended.suspend()
        try:
            time.sleep(PAUSE_S)
        finally:
            suspended.resume()

    return fault


def slow_cassandra(scene: Scene) -> None:
    for _ in range(round(PAUSE_S / SLOW_S / 2)):
        scene.stack.cassandra.pause()
        time.sleep(SLOW_S)
        scene.stack.cassandra.resume()
        time.sleep(SLOW_S)


def down(part: str) -> Callable[[Scene], None]:
    """Kills (-9) the only process of a service."""

    def fault(scene: Scene) -> None:
        service = scene.stack.services[part]
        service.kill()
        scene.wait_until_down(part)
        service.start()

    return fault


def full_disk(scene: Scene) -> None:
    """No write of the JobManager to a file succeeds: its quota (RLIMIT_FSIZE) is used up.

    So the metadata of each checkpoint is incomplete, as on a disk that is full.
    """
    process = psutil.Process(scene.stack.jobmanager.pid)
    _, most = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (NO_FILE_BYTES, most))
    try:
        time.sleep(BROKEN_S)
        status = scene.load.job.cli("job", "status", ok=False)
        assert status.returncode == 1 and "no checkpoint has completed" in status.stderr
    finally:
        process.rlimit(psutil.RLIMIT_FSIZE, (most, most))


def failing_workers(scene: Scene) -> None:
    """Exceptions in Python workers of both pipelines, then at a write; then a worker is killed.

    tests/faults/in_workers has the methods that fail, each once.
    """
    for methods in (("model", "scoring"), ("write",)):
        restarts = scene.load.job.restarts()
        for method in methods:
            (scene.stack.worker_faults / method).touch()
        until(lambda: not any(scene.stack.worker_faults.iterdir()), RECOVERY_TIMEOUT_S)
        for method in methods:
            until(partial(has_failed, scene, method), RECOVERY_TIMEOUT_S, 0.5)
        scene.load.wait_for_restart(restarts)
        until(lambda: runs_under_a_supervisor(scene), RECOVERY_TIMEOUT_S, 1.0)
    scene.load.kill_worker()


def has_failed(scene: Scene, method: str) -> bool:
    failures = rest.request(scene.stack.rest_url, f"/jobs/{scene.load.job.id}/exceptions")
    return f"injected: {method} fails" in str(failures)


def runs_under_a_supervisor(scene: Scene) -> bool:
    """Flink may stop a TaskManager in which a Python function fails."""
    service_restarts.restart_stopped_services(scene.stack, "a recovery")
    job = rest.request(scene.stack.rest_url, f"/jobs/{scene.load.job.id}")
    running, tasks = rest.running_tasks(job)
    return running == tasks > 0


def one_taskmanager_after_the_other(scene: Scene) -> None:
    """The job moves to a second one when the first is killed; then that is killed, the last one."""
    root, state = scene.stack.root, StackState(scene.stack.root)
    second = SecondTaskManager(root, state, None, scene.stack.flink_options)
    with ExitStack() as at_end:
        second.start()
        at_end.callback(scene.stack.taskmanager.start)
        at_end.callback(second.kill)
        restarts = scene.load.job.restarts()
        scene.stack.taskmanager.kill()
        wait_until_running_again(scene.load, restarts)
        assert not scene.stack.taskmanager.alive() and second.workers()
        restarts = scene.load.job.restarts()
    wait_until_running_again(scene.load, restarts)


def wait_until_running_again(load: LoadedJob, restarts: int) -> None:
    load.wait_for_restart(restarts)
    rest.wait_until_running(load.job.rest_url, str(load.job.id), RECOVERY_TIMEOUT_S)


def killed_jobmanager(scene: Scene) -> None:
    """A new JobManager finds the job and its last checkpoint without a submission (ZooKeeper)."""
    service: Service = scene.stack.jobmanager
    assert restored_checkpoints(scene.load.job) == 0
    service.kill()
    scene.wait_until_down("flink")
    service.start()
    until(lambda: restored_checkpoints(scene.load.job), RECOVERY_TIMEOUT_S)
    rest.wait_until_running(scene.load.job.rest_url, str(scene.load.job.id), RECOVERY_TIMEOUT_S)


def restored_checkpoints(job: JobUnderTest) -> int:
    try:
        return rest.request(job.rest_url, f"/jobs/{job.id}/checkpoints")["counts"]["restored"]
    except ServiceError:
        return 0  # the JobManager has not found the job yet


# --- the faults -----------------------------------------------------------------------------------


class Fault(NamedTuple):
    name: str
    happens: Callable[[Scene], None]
    alert: str = ""  # that it raises
    restarts: bool | None = True  # whether tasks restart; None: they may


FAULTS = [
    Fault("broker paused", paused("kafka"), restarts=False),
    Fault("Cassandra paused", paused("cassandra"), restarts=False),
    Fault("JobManager paused", paused("jobmanager"), restarts=False),
    Fault("TaskManager paused", paused("taskmanager"), restarts=False),
    Fault("Python worker paused", paused("Python worker"), restarts=False),
    Fault("Cassandra slow", slow_cassandra, restarts=False),
    Fault("disk full", full_disk, "LiveprofileCheckpointFailed", restarts=False),
    # It counts restored checkpoints, and restarts, since its start.
    Fault("JobManager killed", killed_jobmanager, restarts=None),
    Fault("workers fail, one is killed", failing_workers, "LiveprofileJobRestarts"),
    Fault("broker down", down("kafka"), restarts=None),
    Fault("Cassandra down", down("cassandra"), restarts=None),
    Fault(
        "one TaskManager killed after the other",
        one_taskmanager_after_the_other,
        "LiveprofileJobRestarted",
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_job_recovers(
    fault: Fault, loaded_job: LoadedJob, stack: LocalStack, exporter: str, tmp_path: Path
) -> None:
    job = loaded_job.job
    # A fault that restarts nothing needs no state to restore.
    loaded_job.load(checkpoint=fault.restarts is not False)
    restarts = job.restarts()

    def wait_until_down(source: str) -> None:
        sample = f'liveprofile_source_up{{source="{source}"}} 0.0'
        until(lambda: sample in httpx2.get(exporter, timeout=30).text, RECOVERY_TIMEOUT_S, 0.5)

    alert = fires(fault.alert, exporter, tmp_path) if fault.alert else nullcontext()
    with alert, loaded_job.recovery(fault.name):
        fault.happens(Scene(loaded_job, stack, wait_until_down))
    assert fault.restarts is None or fault.restarts == (job.restarts() > restarts)


def test_output_after_all_faults_equals_reference(loaded_job: LoadedJob) -> None:
    job = loaded_job.job
    loaded_job.close_windows()
    job.wait_for_checkpoint(RECOVERY_TIMEOUT_S)
    assert job.cli("job", "status").stderr == ""
    job.cancel()
    loaded_job.compare()
