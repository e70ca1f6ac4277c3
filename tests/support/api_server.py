"""A process of `liveprofile serve api`, `console` or `metrics`, or a thread with one of them."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from liveprofile.settings import ServeSettings
from serve.server import listen, server_of, url_of
from tests.support.paths import ROOT
from tests.support.waiting import until

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


@contextmanager
def app_server(app: Any, limits: ServeSettings) -> Iterator[str]:
    """The URL of an app that the product's server serves in a thread."""
    server = server_of(app, limits)
    with listen(limits) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            until(lambda: server.started, poll_s=0.01)
            yield url_of(limits, listening)
        finally:
            server.should_exit = True
            thread.join()


def wait_until_ready(url: str) -> None:
    """Waits until the server has connected to Cassandra, which it does after its start."""
    with httpx2.Client(base_url=url, timeout=30) as client:
        until(lambda: _is_ready(client), READY_TIMEOUT_S, why=f"{url} is not ready")


def _is_ready(client: httpx2.Client) -> bool:
    try:
        return client.get("/health/ready").status_code == 200
    except httpx2.TimeoutException:
        return False
