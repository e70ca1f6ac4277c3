"""Commands of `liveprofile` as services of the stack: the read API, the console, heartbeats."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from pathlib import Path

from liveprofile.kafka.topics import create_topics
from liveprofile.settings import load
from stack.process import Service
from stack.state import LOOPBACK, StackState


class Command(Service):
    """`liveprofile <words>` with the settings of the stack."""

    words: tuple[str, ...]

    def __init__(self, root: Path, state: StackState, config_file: Path):
        super().__init__(root, state)
        self._config_file = config_file

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        program = Path(sys.executable).with_name("liveprofile")
        return [str(program), *self.words, "--config", str(self._config_file)], {}

    def ready(self) -> bool:
        return self.alive()


class HttpServer(Command):
    """A server on a loopback port. It connects to Cassandra once the tables exist."""

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


class ReadApi(HttpServer):
    name, words = "api", ("serve", "api")


class ConsoleServer(HttpServer):
    name, words = "console", ("serve", "console")


class Heartbeat(Command):
    """Sends the present time to every partition of the input topic, which it creates if missing."""

    name, words = "heartbeat", ("events", "heartbeat")

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        create_topics(load(self._config_file))
        return super().prepare()
