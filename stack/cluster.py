"""A Flink standalone cluster: one JobManager, one TaskManager, from the pip package's jars."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import psutil

from liveprofile.errors import ServiceError
from liveprofile.flink.launcher import (
    FOLDERS_OF_THE_CLUSTER,
    SHORT_LIVED,
    environment,
    java_command,
    library,
    pyflink_home,
    write_configuration,
)
from stack.process import Service
from stack.state import LOOPBACK, State

DEFAULT_SLOTS = 4
ENTRY = "org.apache.flink.runtime"
WORKER = "pyflink.fn_execution"


def _memory_options(folder: Path, process: str, dynamic: list[str]) -> tuple[list[str], list[str]]:
    """JVM options and Flink options that split the process size; `process`: "JM" or "TM"."""
    utilities = pyflink_home() / "bin" / "bash-java-utils.jar"
    main_class = "org.apache.flink.runtime.util.bash.BashJavaUtils"
    command = java_command(folder, main_class, *SHORT_LIVED, extra_jar=utilities)
    command += [f"GET_{process}_RESOURCE_PARAMS", "--configDir", str(folder / "conf"), *dynamic]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(folder), check=False
    )
    marked = "BASH_JAVA_UTILS_EXEC_RESULT:"
    results = [
        line.removeprefix(marked).split()
        for line in done.stdout.splitlines()
        if line.startswith(marked)
    ]
    if done.returncode or len(results) != 2:
        raise ServiceError(
            f"Flink refuses {folder / 'conf'}: {(done.stdout + done.stderr)[-2000:]}"
        )
    return results[0], results[1]


class _FlinkService(Service):
    """`slots`: None takes what the root was last started with."""

    def __init__(self, root: Path, state: State, slots: int | None):
        super().__init__(root, state)
        self._slots = slots
        self._durable = root / "flink"
        self._temporary = self.folder / "tmp"

    @property
    def rest_url(self) -> str:
        return f"http://{LOOPBACK}:{self.state.ports('flink_rest')['flink_rest']}"

    def _configure(self) -> None:
        with self.state.change() as content:
            slots = content["slots"] = self._slots or content.get("slots", DEFAULT_SLOTS)
        ports = self.state.ports("flink_rest", "flink_rpc", "flink_blob")
        write_configuration(
            self.folder / "conf",
            {
                "jobmanager.rpc.address": LOOPBACK,
                "jobmanager.rpc.port": ports["flink_rpc"],
                "jobmanager.bind-host": LOOPBACK,
                "blob.server.port": ports["flink_blob"],
                "rest.address": LOOPBACK,
                "rest.bind-address": LOOPBACK,
                "rest.port": ports["flink_rest"],
                "taskmanager.host": LOOPBACK,
                "taskmanager.bind-host": LOOPBACK,
                "taskmanager.numberOfTaskSlots": slots,
                **{
                    option: (self._durable / name).as_uri()
                    for option, name in FOLDERS_OF_THE_CLUSTER.items()
                },
                "io.tmp.dirs": str(self._temporary),
                "web.log.path": str(self.log),
                "taskmanager.log.path": str(self.log),
            },
        )
        library(self.folder / "lib")
        shutil.rmtree(self._temporary, ignore_errors=True)  # what a killed process left
        self._temporary.mkdir()

    def _command(self, process: str, main_class: str, *dynamic: str) -> list[str]:
        jvm, split = _memory_options(self.folder, process, list(dynamic))
        arguments = ["--configDir", str(self.folder / "conf"), *split, *dynamic]
        return [*java_command(self.folder, main_class, *jvm), *arguments]

    def _get(self, path: str) -> dict[str, Any] | None:
        try:
            with urllib.request.urlopen(self.rest_url + path, timeout=2) as answer:
                return json.load(answer)
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return None  # not up yet


class JobManager(_FlinkService):
    name = "jobmanager"

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        self._configure()
        command = self._command("JM", f"{ENTRY}.entrypoint.StandaloneSessionClusterEntrypoint")
        return command, environment(self.folder)

    def ready(self) -> bool:
        return self._get("/overview") is not None


class TaskManager(_FlinkService):
    """Ready once the JobManager knows it."""

    name = "taskmanager"
    _resource_id = ""

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        self._configure()
        # Named anew at each start: the JobManager remembers a killed one for a while.
        self._resource_id = f"taskmanager-{uuid.uuid4().hex[:8]}"
        identity = f"-Dtaskmanager.resource-id={self._resource_id}"
        command = self._command("TM", f"{ENTRY}.taskexecutor.TaskManagerRunner", identity)
        return command, environment(self.folder)

    def ready(self) -> bool:
        known = self._get("/taskmanagers") or {"taskmanagers": []}
        return any(each["id"] == self._resource_id for each in known["taskmanagers"])

    def workers(self) -> list[psutil.Process]:
        """The Python processes that the models run in, those of every job."""
        children = self._required().children(recursive=True)
        return [
            each for each in children if "python" in each.name() and WORKER in str(each.cmdline())
        ]
