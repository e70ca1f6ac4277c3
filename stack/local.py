"""Kafka, Cassandra and Flink in one folder; each folder is an independent stack.

Example: `with Stack(folder) as started: flink_run(started.rest_url, job, ["--config", ...])`.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

from liveprofile.errors import PortTakenError
from liveprofile.flink import jars
from liveprofile.resources import ROOT
from liveprofile.toml_text import to_toml
from stack import DEFAULT_ROOT
from stack.cassandra import CassandraNode
from stack.cluster import JobManager, TaskManager
from stack.kafka import KafkaBroker
from stack.process import Service
from stack.state import LOOPBACK, StackState

START_ATTEMPTS = 3
PROFILE_NICE = 10


CONFIG = "liveprofile.toml"


class Command(Service):
    """`liveprofile serve NAME` with the settings of the stack.

    It waits for Cassandra's tables itself.
    """

    def __init__(self, name: str, root: Path, state: StackState):
        self.name = name
        super().__init__(root, state)
        self._config_file = root / CONFIG

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        program = Path(sys.executable).with_name("liveprofile")
        return [str(program), "serve", self.name, "--config", str(self._config_file)], {}

    def ready(self) -> bool:
        return self.alive()


class HttpServer(Command):
    """The read API or the console."""

    @property
    def port(self) -> int:
        return self.state.ports(self.name)[self.name]

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def ready(self) -> bool:
        return self.answers("/health/live")

    def answers(self, path: str) -> bool:
        """Whether it answers this path with success."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=2):
                return True
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False


class Stack:
    """The four services of the folder `root`, running or not.

    `slots`: task slots; None means the number of the last start, initially 4.
    `pipelines`: "apart" means a second cluster for the scoring job, and low priority for the first;
    None as for `slots`, initially "together".
    `commit_log`: see stack.cassandra. `flink_options`: see stack.cluster.

    A second object with the same root, in any process, controls the same services.
    """

    def __init__(
        self,
        root: Path | str = DEFAULT_ROOT,
        *,
        slots: int | None = None,
        pipelines: str | None = None,
        parallelism: int = 2,
        cassandra_heap_mb: int = 1024,
        commit_log: str = "batch",
        flink_options: Mapping[str, Any] = MappingProxyType({}),
    ):
        self.root = Path(root).resolve()
        self.parallelism = parallelism
        state = StackState(self.root)
        self.kafka = KafkaBroker(self.root, state)
        self.cassandra = CassandraNode(self.root, state, cassandra_heap_mb, commit_log)
        self.jobmanager = JobManager(self.root, state, slots, flink_options)
        self.taskmanager = TaskManager(self.root, state, slots, flink_options)
        self.pipelines = pipelines or state.read().get("pipelines", "together")
        self.scoring_cluster = (
            JobManager(self.root, state, slots, flink_options, "scoring-"),
            TaskManager(self.root, state, slots, flink_options, "scoring-"),
        )
        if self.pipelines == "apart":
            self.taskmanager.nice = PROFILE_NICE
        # Not of the services: the job does not need them.
        self.api = HttpServer("api", self.root, state)
        self.console = HttpServer("console", self.root, state)
        self.chores = Command("chores", self.root, state)
        self._state = state

    @property
    def services(self) -> dict[str, Service]:
        ordered = [self.kafka, self.cassandra, self.jobmanager, self.taskmanager]
        ordered += self.scoring_cluster if self.pipelines == "apart" else ()
        return {service.name: service for service in ordered}

    @property
    def config_file(self) -> Path:
        """The liveprofile.toml of this stack, for `liveprofile.settings.load`."""
        return self.root / CONFIG

    @property
    def rest_url(self) -> str:
        return self.jobmanager.rest_url

    def __enter__(self) -> Stack:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the services that do not run, concurrently, and writes `config_file`.

        If no service ran and another process took a port meanwhile, all start with other ports.
        Raises ServiceError with the end of the log of the first service that fails; the other
        services keep running.
        """
        jars.require()
        attempts = 1 if any(each.alive() for each in self.services.values()) else START_ATTEMPTS
        for attempt in range(attempts):
            self.write_config()
            try:
                self._run_on("start", self.services.values())
                return
            except PortTakenError:
                if attempt + 1 == attempts:
                    raise
                self.stop()
                self._state.replace_taken_ports()

    def stop(self) -> None:
        """Stops all services; data, ports and logs stay for the next start."""
        self.chores.stop()
        self.console.stop()
        self.api.stop()
        # A TaskManager stops before the JobManager that it reports to.
        scoring_jobmanager, scoring_taskmanager = self.scoring_cluster
        self._run_on("stop", (self.taskmanager, scoring_taskmanager, self.cassandra))
        self._run_on("stop", (self.jobmanager, scoring_jobmanager, self.kafka))

    def _run_on(self, action: str, services: Iterable[Service]) -> None:
        with ThreadPoolExecutor(max_workers=6) as pool:
            futures = [pool.submit(getattr(service, action)) for service in services]
        for future in futures:
            future.result()

    def settings(self) -> dict[str, Any]:
        """Overrides for `liveprofile.settings.load(**settings)` that point at this stack."""
        apart = self.pipelines == "apart"
        return {
            "kafka": {"bootstrap_servers": self.kafka.bootstrap_servers},
            "cassandra": {"contact_points": [LOOPBACK], "port": self.cassandra.port},
            "flink": {"rest_url": self.rest_url}
            | ({"scoring_rest_url": self.scoring_cluster[0].rest_url} if apart else {}),
            "serve": {
                "host": LOOPBACK,
                "port": self.api.port,
                "console_port": self.console.port,
                "authentication": "none",
                "second_approver": False,  # who tries it out is alone
            },
            "consent": {"mode": "opt-out"},
            "job": {
                "checkpoint_dir": (self.root / "flink" / "checkpoints").as_uri(),
                "parallelism": self.parallelism,
                "pipelines": self.pipelines,
            },
            "model": {"checkpoint": str(ROOT / "models" / "checkpoints" / "default")},
            "scoring": {
                "checkpoint": str(ROOT / "models" / "checkpoints" / "event-risk"),
                "replay": True,  # mostly history is tried out here
            },
            # History is tried out here: the present time would end it.
            "chores": {"heartbeat_s": 0, "sweep_s": 0, "late_s": 0},
            "rules": str(ROOT / "rules.toml"),
            "segments": str(ROOT / "segments.toml"),
            "attributes": str(ROOT / "attributes.toml"),
            "event_types": str(ROOT / "events.toml"),
        }

    def write_config(self) -> Path:
        """Writes `settings` to `config_file` and returns its path."""
        with self._state.update() as content:
            content["pipelines"] = self.pipelines
        self.config_file.write_text(to_toml(self.settings()), "utf-8")
        return self.config_file

    def status(self) -> dict[str, Any]:
        """{"config", "services": {name: {"pid", "address", "memory_mb", "log"}}}."""
        ports = self._state.read()["ports"]
        others = (self.api, self.console, self.chores)
        services = {}
        for name, service in (self.services | {each.name: each for each in others}).items():
            port = ports.get(name.replace("jobmanager", "flink_rest"), "")
            scheme = "" if name in ("kafka", "cassandra") else "http://"
            services[name] = {
                "pid": service.pid,
                "address": port and f"{scheme}{LOOPBACK}:{port}",
                "memory_mb": round(service.memory_mb()),
                "log": str(service.log),
            }
        return {"config": str(self.config_file), "services": services}
