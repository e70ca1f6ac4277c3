"""The read API (`liveprofile serve api`) and the console (`liveprofile serve console`) as
services.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from pathlib import Path

from stack.process import Service
from stack.state import LOOPBACK, StackState


class HttpServer(Service):
    """`liveprofile serve <command>` on a loopback port. It connects once the tables exist."""

    command: str

    def __init__(self, root: Path, state: StackState, config_file: Path):
        super().__init__(root, state)
        self._config_file = config_file

    @property
    def port(self) -> int:
        return self.state.ports(self.name)[self.name]

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        program = Path(sys.executable).with_name("liveprofile")
        return [str(program), "serve", self.command, "--config", str(self._config_file)], {}

    def ready(self) -> bool:
        return self.answers("/health/live")

    def answers(self, path: str) -> bool:
        """Whether it answers this path with success."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=2):
                return True
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False


class ReadApi(HttpServer):
    name, command = "api", "api"


class ConsoleServer(HttpServer):
    name, command = "console", "console"
