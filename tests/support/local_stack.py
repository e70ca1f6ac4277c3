"""The local stack as tests start it: Flink is highly available, and its workers can fail."""

import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

from liveprofile.errors import ServiceError
from liveprofile.flink import java
from liveprofile.flink.jars import JARS
from stack.cassandra import CONF, CassandraNode
from stack.cluster import TaskManager
from stack.local import Stack
from stack.state import StackState
from tests.support.more_services import ZooKeeper
from tests.support.paths import ROOT

SLOTS = 4
CASSANDRA_HEAP_MB = 512
# A dead TaskManager is noticed sooner than with flink-conf/. No test pauses one for longer.
HEARTBEATS = {"heartbeat.timeout": "20 s"}
IN_WORKERS = ROOT / "tests" / "faults" / "in_workers"


def nodetool(jmx_port: int, *arguments: str, timeout_s: float = 900) -> str:
    """Runs Cassandra's nodetool and returns what it prints. Raises ServiceError if it fails."""
    with tempfile.TemporaryDirectory() as home:  # for its history
        command = [str(java.home() / "bin" / "java"), f"@{CONF / 'cassandra-jvm17.options'}"]
        command += ["-Xmx256m", f"-Duser.home={home}", "-cp", f"{JARS / 'cassandra'}/*"]
        command += ["org.apache.cassandra.tools.NodeTool", "-p", str(jmx_port), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    if done.returncode:
        raise ServiceError(f"nodetool {' '.join(arguments)}: {done.stdout[-500:]}{done.stderr}")
    return done.stdout


class QuickCassandra(CassandraNode):
    """Creates and truncates tables in half of the time: what is known of them is not flushed.

    A killed node would read its commit log without knowing the tables, so `kill` flushes before.
    """

    PROPERTIES = ("cassandra.test.flush_local_schema_changes=false", "cassandra.unsafesystem=true")

    @property
    def jmx_port(self) -> int:
        return self.state.ports("cassandra_jmx")["cassandra_jmx"]

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        command, environment = super().prepare()
        properties = (*self.PROPERTIES, f"cassandra.jmx.local.port={self.jmx_port}")
        return [*command[:-1], *(f"-D{each}" for each in properties), command[-1]], environment

    def kill(self) -> None:
        if self.ready():
            for keyspace in ("system_schema", "system"):
                nodetool(self.jmx_port, "flush", keyspace, timeout_s=60)
        super().kill()


class LocalStack(Stack):
    """A stack with ZooKeeper, in which Cassandra is quick."""

    def __init__(self, root: Path, flink_options: Mapping[str, Any] = MappingProxyType({})):
        self.zookeeper = ZooKeeper(root, StackState(root))
        # Of the TaskManagers, and the other ones that a test starts.
        self.flink_options = HEARTBEATS | self.zookeeper.flink_options() | dict(flink_options)
        super().__init__(
            root, slots=SLOTS, cassandra_heap_mb=CASSANDRA_HEAP_MB, flink_options=self.flink_options
        )
        state = StackState(self.root)
        self.cassandra = QuickCassandra(self.root, state, CASSANDRA_HEAP_MB)
        # A file in it makes a method of a Python worker fail.
        self.worker_faults = root / "worker-faults"

    def start(self) -> None:
        self.worker_faults.mkdir(parents=True, exist_ok=True)
        os.environ["WORKER_FAULTS"] = str(self.worker_faults)
        paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if str(IN_WORKERS) not in paths:
            os.environ["PYTHONPATH"] = os.pathsep.join([str(IN_WORKERS), *filter(None, paths)])
        self.zookeeper.start()
        super().start()

    def stop(self) -> None:
        super().stop()
        self.zookeeper.stop()


def newest_worker(taskmanager: TaskManager) -> psutil.Process:
    """An older one may be of the attempt before: its end would restart nothing."""
    return max(taskmanager.workers(), key=psutil.Process.create_time)
