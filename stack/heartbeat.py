"""`liveprofile events heartbeat` as a service of the stack."""

from __future__ import annotations

import sys
from pathlib import Path

from liveprofile.kafka.topics import create_topics
from liveprofile.settings import load
from stack.process import Service
from stack.state import StackState


class Heartbeat(Service):
    """Sends the present time to every partition of the input topic, which it creates if missing."""

    name = "heartbeat"

    def __init__(self, root: Path, state: StackState, config_file: Path):
        super().__init__(root, state)
        self._config_file = config_file

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        create_topics(load(self._config_file))
        command = Path(sys.executable).with_name("liveprofile")
        return [str(command), "events", "heartbeat", "--config", str(self._config_file)], {}

    def ready(self) -> bool:
        return self.alive()
