"""Ports and processes of a stack in <root>/state.json, shared between processes."""

import fcntl
import json
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from liveprofile.errors import ServiceError

# Below Linux's range for outgoing connections (32768 and up), so that no connection takes the
# port of a service that is down.
PORTS = range(20_000, 32_000)
LOOPBACK = "127.0.0.1"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """`count` different ports without a listener on loopback. Raises ServiceError."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        if len(ports) == count:
            return ports
        if _is_free(port):
            ports.append(port)
    raise ServiceError(f"no {count} free ports in {PORTS.start} to {PORTS.stop} on {LOOPBACK}")


class StackState:
    """The JSON file of one stack; a lock serialises changes by threads and processes."""

    def __init__(self, root: Path):
        self.file = root / "state.json"
        self._lock = root / "state.lock"

    def read(self) -> dict[str, Any]:
        """{"ports": {name: port}, "processes": {service: {"pid", "started_s"}}}.

        Raises ServiceError if the file is not JSON.
        """
        if not self.file.is_file():
            return {"ports": {}, "processes": {}}
        try:
            return json.loads(self.file.read_text())
        except json.JSONDecodeError as error:
            raise ServiceError(f"{self.file} is not JSON ({error}): delete it") from None

    @contextmanager
    def update(self) -> Iterator[dict[str, Any]]:
        """Yields the content and writes it back, with the changes of the with block, at its end."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self._lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            content = self.read()
            yield content
            written = self.file.with_suffix(".new")
            written.write_text(json.dumps(content, indent=1))
            written.replace(self.file)

    def ports(self, *names: str) -> dict[str, int]:
        """The ports of these names; the first call chooses them and later calls return the same."""
        with self.update() as content:
            if missing := [name for name in names if name not in content["ports"]]:
                content["ports"].update(zip(missing, free_ports(len(missing)), strict=True))
            return {name: content["ports"][name] for name in names}

    def replace_taken_ports(self) -> None:
        """Chooses other ports for those that a process has. All services must be down."""
        with self.update() as content:
            ports = content["ports"]
            taken = [name for name, port in ports.items() if not _is_free(port)]
            ports.update(zip(taken, free_ports(len(taken)), strict=True))
