"""The JobManager dies, in a cluster with high availability (ZooKeeper and a shared folder).

Load: steady. Fault: kill -9 of the only JobManager, which a supervisor starts again.
Must hold: the new JobManager finds the job and its last checkpoint without a submission; no event
is lost or used twice, every profile equals the reference's.
Recovery: automatic.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from liveprofile.errors import ServiceError
from liveprofile.flink import rest
from liveprofile.flink.launcher import environment, java_command, link_jars, write_configuration
from stack.cluster import JobManager, TaskManager
from stack.process import Service, is_listening
from stack.state import LOOPBACK, StackState
from tests.faults.jobs.loaded_job import RECOVERY_TIMEOUT_S, WINDOW, LoadedJob, open_loaded_job
from tests.faults.monitoring.alerts import Fires
from tests.support.job_under_test import JobUnderTest

pytestmark = pytest.mark.faults

SLOTS = 2
POLL_S = 0.2


class ZooKeeper(Service):
    """The server that is part of Flink."""

    name = "zookeeper"

    @property
    def port(self) -> int:
        return self.state.ports("zookeeper")["zookeeper"]

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        write_configuration(self.folder / "conf", {})
        link_jars(self.folder / "lib")
        (self.folder / "tmp").mkdir(exist_ok=True)
        config = self.folder / "zoo.cfg"
        config.write_text(
            f"dataDir={self.folder / 'data'}\nclientPort={self.port}\n"
            f"clientPortAddress={LOOPBACK}\ntickTime=2000\nadmin.enableServer=false\n"
        )
        main_class = "org.apache.flink.runtime.zookeeper.FlinkZooKeeperQuorumPeer"
        arguments = ["--zkConfigFile", str(config), "--peerId", "1"]
        command = [*java_command(self.folder, main_class, "-Xmx128m"), *arguments]
        return command, environment(self.folder)

    def ready(self) -> bool:
        return is_listening(self.port)


class Cluster:
    """A Flink cluster with high availability in the folder `root`."""

    def __init__(self, root: Path):
        state = StackState(root)
        self.zookeeper = ZooKeeper(root, state)
        options: dict[str, Any] = {
            "high-availability.type": "zookeeper",
            "high-availability.zookeeper.quorum": f"{LOOPBACK}:{self.zookeeper.port}",
            "high-availability.storageDir": (root / "ha").as_uri(),
            "high-availability.jobmanager.port": state.ports("flink_ha")["flink_ha"],
        }
        self.jobmanager = JobManager(root, state, SLOTS, options)
        self.taskmanager = TaskManager(root, state, SLOTS, options)

    def start(self) -> None:
        for service in (self.zookeeper, self.jobmanager, self.taskmanager):
            service.start()

    def stop(self) -> None:
        for service in (self.taskmanager, self.jobmanager, self.zookeeper):
            service.stop()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def available_job(new_job: Callable[..., JobUnderTest], cluster: Cluster) -> Iterator[LoadedJob]:
    flink = {"rest_url": cluster.jobmanager.rest_url}
    job = new_job("available", window=WINDOW, scoring={"enabled": False}, flink=flink)
    job.submit()
    with open_loaded_job(job, with_scoring=False) as loaded_job:
        yield loaded_job


def wait_until_restored(job: JobUnderTest) -> None:
    """Returns when the job of a new JobManager runs, from a checkpoint."""
    deadline_s = time.monotonic() + RECOVERY_TIMEOUT_S
    while not restored_checkpoints(job):
        assert time.monotonic() < deadline_s, "the new JobManager did not restore the job"
        time.sleep(POLL_S)
    rest.wait_until_running(job.rest_url, str(job.id), RECOVERY_TIMEOUT_S)


def restored_checkpoints(job: JobUnderTest) -> int:
    try:
        return rest.request(job.rest_url, f"/jobs/{job.id}/checkpoints")["counts"]["restored"]
    except ServiceError:
        return 0  # the JobManager has not found the job yet


def test_job_recovers_when_jobmanager_is_killed(
    available_job: LoadedJob, cluster: Cluster, fires: Fires
) -> None:
    job = available_job.job
    assert restored_checkpoints(job) == 0
    with (
        available_job.load(),
        fires(job, "LiveprofileSourceDown"),
        available_job.recovery("JobManager killed, high availability"),
    ):
        cluster.jobmanager.kill()
        cluster.jobmanager.start()
        wait_until_restored(job)
    available_job.check()
