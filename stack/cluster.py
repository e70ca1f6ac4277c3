"""Flink standalone clusters from the pip package's jars: a JobManager and a TaskManager each."""

import json
import shutil
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

from liveprofile.errors import ServiceError
from liveprofile.flink.launcher import (
    CLUSTER_FOLDER_OPTIONS,
    SHORT_LIVED_JVM_OPTIONS,
    environment,
    java_command,
    link_jars,
    pyflink_home,
    write_configuration,
)
from stack.process import Service
from stack.state import LOOPBACK, StackState

DEFAULT_SLOTS = 4
JOBMANAGER_CLASS = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
TASKMANAGER_CLASS = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
PYTHON_WORKER_MODULE = "pyflink.fn_execution"


@cache
def _memory_options(folder: Path, process: str, options: str) -> tuple[list[str], list[str]]:
    """JVM options and Flink options that divide the configured process memory.

    `process`: "JM" or "TM". `options`: the content of config.yaml; a JVM reads it, for a second.
    Raises ServiceError if Flink refuses it.
    """
    utilities = pyflink_home() / "bin" / "bash-java-utils.jar"
    main_class = "org.apache.flink.runtime.util.bash.BashJavaUtils"
    command = java_command(folder, main_class, *SHORT_LIVED_JVM_OPTIONS, extra_jar=utilities)
    command += [f"GET_{process}_RESOURCE_PARAMS", "--configDir", str(folder / "conf")]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(folder), check=False
    )
    prefix = "BASH_JAVA_UTILS_EXEC_RESULT:"
    results = [
        line.removeprefix(prefix).split()
        for line in done.stdout.splitlines()
        if line.startswith(prefix)
    ]
    if done.returncode or len(results) != 2:
        raise ServiceError(
            f"Flink refuses the configuration in {folder / 'conf'}:"
            f" {(done.stdout + done.stderr)[-2000:]}"
        )
    return results[0], results[1]


class _FlinkService(Service):
    """`slots`: task slots; None means the number of the last start, initially DEFAULT_SLOTS.

    `options`: of Flink, which override those of the stack. `cluster`: in front of the names of the
    processes and ports of a second cluster.
    """

    process: str  # as Flink's options call it

    def __init__(
        self,
        root: Path,
        state: StackState,
        slots: int | None,
        options: Mapping[str, Any] = MappingProxyType({}),
        cluster: str = "",
    ):
        self.name = cluster + self.name
        super().__init__(root, state)
        self._slots, self._options, self._cluster = slots, options, cluster
        self._durable = root / "flink"
        self._temporary = self.folder / "tmp"

    @property
    def rest_url(self) -> str:
        return f"http://{LOOPBACK}:{self._port('flink_rest')}"

    def _port(self, name: str) -> int:
        [port] = self.state.ports(self._cluster + name).values()
        return port

    def _configure(self) -> None:
        with self.state.update() as content:
            slots = content["slots"] = self._slots or content.get("slots", DEFAULT_SLOTS)
        write_configuration(
            self.folder / "conf",
            {
                "jobmanager.rpc.address": LOOPBACK,
                "jobmanager.rpc.port": self._port("flink_rpc"),
                "jobmanager.bind-host": LOOPBACK,
                "blob.server.port": self._port("flink_blob"),
                "rest.address": LOOPBACK,
                "rest.bind-address": LOOPBACK,
                "rest.port": self._port("flink_rest"),
                "taskmanager.host": LOOPBACK,
                "taskmanager.bind-host": LOOPBACK,
                "taskmanager.numberOfTaskSlots": slots,
                **{
                    option: (self._durable / name).as_uri()
                    for option, name in CLUSTER_FOLDER_OPTIONS.items()
                },
                "io.tmp.dirs": str(self._temporary),
                "web.log.path": str(self.log),
                "taskmanager.log.path": str(self.log),
                **self._options,
            },
        )
        link_jars(self.folder / "lib")
        shutil.rmtree(self._temporary, ignore_errors=True)  # left by a killed process
        self._temporary.mkdir()

    def _command(self, process: str, main_class: str, *dynamic: str) -> list[str]:
        conf = self.folder / "conf"
        jvm, split = _memory_options(self.folder, process, (conf / "config.yaml").read_text())
        arguments = ["--configDir", str(conf), *split, *dynamic]
        command = java_command(self.folder, main_class, *jvm, process=self.process)
        return [*command, *arguments]

    def _get(self, path: str) -> dict[str, Any] | None:
        """The answer of the REST interface; None if it does not answer yet."""
        try:
            with urllib.request.urlopen(self.rest_url + path, timeout=2) as answer:
                return json.load(answer)
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return None


class JobManager(_FlinkService):
    """Ready when its REST interface answers."""

    name = process = "jobmanager"

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        self._configure()
        command = self._command("JM", JOBMANAGER_CLASS)
        return command, environment(self.folder)

    def ready(self) -> bool:
        return self._get("/overview") is not None


class TaskManager(_FlinkService):
    """Ready when it is registered at the JobManager. nice: the priority of it and its workers."""

    name = process = "taskmanager"
    nice = 0
    _resource_id = ""

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        self._configure()
        # A new id at each start, because the JobManager keeps a killed TaskManager for a while.
        self._resource_id = f"taskmanager-{uuid.uuid4().hex[:8]}"
        identity = f"-Dtaskmanager.resource-id={self._resource_id}"
        command = self._command("TM", TASKMANAGER_CLASS, identity)
        return ["nice", "-n", str(self.nice), *command], environment(self.folder)

    def ready(self) -> bool:
        answer = self._get("/taskmanagers") or {"taskmanagers": []}
        return any(each["id"] == self._resource_id for each in answer["taskmanagers"])

    def workers(self) -> list[psutil.Process]:
        """The Python workers of all jobs, in which the UDFs and the models run."""
        children = self._running_process().children(recursive=True)
        return [
            child
            for child in children
            if "python" in child.name() and PYTHON_WORKER_MODULE in str(child.cmdline())
        ]
