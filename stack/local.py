"""Kafka, Cassandra and Flink together in one folder; as many independent stacks as folders.

Example: `with Stack(folder) as stack: stack.submit(job, "--config", str(stack.config_file))`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from liveprofile.errors import ServiceError
from liveprofile.flink import jars, submission
from liveprofile.resources import ROOT
from stack import DEFAULT_ROOT
from stack.cassandra import Cassandra
from stack.cluster import JobManager, TaskManager
from stack.kafka import Kafka
from stack.process import Service
from stack.state import LOOPBACK, State


class Stack:
    """The four services of `root`, running or not.

    `slots` of the TaskManager: None takes what the root was last started with, at first 4.
    `commit_log` of Cassandra: see stack.cassandra.

    A second object of the same root, in any process, sees and controls the same services.
    """

    def __init__(
        self,
        root: Path | str = DEFAULT_ROOT,
        *,
        slots: int | None = None,
        parallelism: int = 2,
        cassandra_heap_mb: int = 1024,
        commit_log: str = "batch",
    ):
        self.root = Path(root).resolve()
        self.parallelism = parallelism
        state = State(self.root)
        self.kafka = Kafka(self.root, state)
        self.cassandra = Cassandra(self.root, state, cassandra_heap_mb, commit_log)
        self.jobmanager = JobManager(self.root, state, slots)
        self.taskmanager = TaskManager(self.root, state, slots)
        self._state = state

    @property
    def services(self) -> dict[str, Service]:
        ordered = (self.kafka, self.cassandra, self.jobmanager, self.taskmanager)
        return {service.name: service for service in ordered}

    @property
    def config_file(self) -> Path:
        """The liveprofile.toml that `liveprofile.config.load` reads."""
        return self.root / "liveprofile.toml"

    @property
    def rest_url(self) -> str:
        return self.jobmanager.rest_url

    def __enter__(self) -> Stack:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts what does not run, all at once, and writes `config_file`.

        Raises ServiceError with the log's end of the first service that fails; the others stay.
        """
        jars.require()
        self.write_config()
        self._all("start", self.services.values())

    def stop(self) -> None:
        """Stops everything; data, ports and logs stay for the next start."""
        self._all("stop", (self.taskmanager, self.cassandra))  # before what they report to
        self._all("stop", (self.jobmanager, self.kafka))

    def _all(self, action: str, services: Any) -> None:
        with ThreadPoolExecutor(max_workers=4) as pool:
            running = [pool.submit(getattr(service, action)) for service in services]
        for each in running:
            each.result()

    def settings(self) -> dict[str, Any]:
        """Overrides for `liveprofile.config.load(**settings)` that point at this stack."""
        return {
            "kafka": {"bootstrap_servers": self.kafka.bootstrap_servers},
            "cassandra": {"contact_points": [LOOPBACK], "port": self.cassandra.port},
            "flink": {"rest_url": self.rest_url},
            "job": {
                "checkpoint_dir": (self.root / "flink" / "checkpoints").as_uri(),
                "parallelism": self.parallelism,
            },
            "model": {"checkpoint": str(ROOT / "models" / "checkpoints" / "default")},
            "scoring": {"checkpoint": str(ROOT / "models" / "checkpoints" / "event-risk")},
            "rules": str(ROOT / "rules.toml"),
        }

    def write_config(self) -> Path:
        self.root.mkdir(parents=True, exist_ok=True)
        self.config_file.write_text(to_toml(self.settings()))
        return self.config_file

    def submit(
        self,
        job: Path | str,
        *args: str,
        parallelism: int | None = None,
        savepoint: str | None = None,
        conf: Mapping[str, Any] | None = None,
    ) -> str:
        """`flink run` of a PyFlink file on this cluster; returns the job id.

        Raises ServiceError.
        """
        options = {"parallelism.default": parallelism or self.parallelism} | dict(conf or {})
        return submission.flink_run(self.rest_url, job, args, savepoint=savepoint, conf=options)

    def service(self, name: str) -> Service:
        """Raises ServiceError for a name that is no service."""
        if name not in self.services:
            raise ServiceError(f"no service {name!r}: it is one of {', '.join(self.services)}")
        return self.services[name]

    def status(self) -> dict[str, Any]:
        """{"root", "config", "services": {name: {"pid", "port"?, "memory_mb", "log"}}}."""
        ports = self._state.read()["ports"]
        names = {"kafka": "kafka", "cassandra": "cassandra", "jobmanager": "flink_rest"}
        return {
            "root": str(self.root),
            "config": str(self.config_file),
            "services": {
                name: {
                    "pid": service.pid,
                    "port": ports.get(names.get(name, "")),
                    "memory_mb": round(service.memory_mb()),
                    "log": str(service.log),
                }
                for name, service in self.services.items()
            },
        }


def to_toml(settings: Mapping[str, Any]) -> str:
    """Plain values and one level of tables; JSON's strings, numbers and lists are TOML's too."""
    plain = {key: value for key, value in settings.items() if not isinstance(value, Mapping)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    for name, table in settings.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{name}]"]
            lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"
