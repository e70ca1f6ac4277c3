"""A process of `liveprofile serve api`, `console` or `metrics`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from tests.support.paths import ROOT

STOP_S = 60
READY_TIMEOUT_S = 180


@contextmanager
def api_server(config: Path, subcommand: str = "api", *options: str) -> Iterator[str]:
    """The URL of a server with these settings, on a free port; its log is beside the settings."""
    command = [sys.executable, "-m", "cli", "serve", subcommand, "--config", str(config)]
    with (
        config.with_suffix(".log").open("wb") as log,
        subprocess.Popen(
            [*command, "--port", "0", "--json", *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
        ) as run,
    ):
        try:
            line = run.stdout.readline()
            assert line, config.with_suffix(".log").read_text()
            yield json.loads(line)["url"]
        finally:
            run.terminate()
            assert run.wait(STOP_S) == 0


def wait_until_ready(url: str) -> None:
    """Waits until the server has connected to Cassandra, which it does after its start."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    with httpx2.Client(base_url=url, timeout=30) as client:
        while not _is_ready(client):
            assert time.monotonic() < deadline_s, f"{url} was not ready after {READY_TIMEOUT_S} s"
            time.sleep(0.2)


def _is_ready(client: httpx2.Client) -> bool:
    try:
        return client.get("/health/ready").status_code == 200
    except httpx2.TimeoutException:
        return False
