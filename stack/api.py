"""The read API (`liveprofile serve`) as a service of the stack."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from pathlib import Path

from stack.process import Service
from stack.state import LOOPBACK, StackState


class ReadApi(Service):
    """Answers on a loopback port. It connects when Cassandra has the tables."""

    name = "api"

    def __init__(self, root: Path, state: StackState, config_file: Path):
        super().__init__(root, state)
        self._config_file = config_file

    @property
    def port(self) -> int:
        return self.state.ports("api")["api"]

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        command = Path(sys.executable).with_name("liveprofile")
        return [str(command), "serve", "--config", str(self._config_file)], {}

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health/live", timeout=2):
                return True
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False
