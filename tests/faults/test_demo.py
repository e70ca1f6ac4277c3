"""The demo runs on a busy machine and is interrupted.

Load: processes that use all the processor time they get. Fault: the demo ends in the middle of its
replay.
Must hold: the next demo resumes the replay, no event is lost or sent twice, the audit is clean.
Recovery: running the demo again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from urllib.request import urlopen

import pytest
from rich.console import Console

from cli.demo import open_console, scene
from cli.demo import run as demo
from cli.demo.watch import JobWatcher, Snapshot
from liveprofile.errors import ServiceError
from liveprofile.flink import rest
from liveprofile.settings import load
from liveprofile.storage.connection import open_session
from serve.keys import Role, read_keys
from stack.local import Stack

pytestmark = pytest.mark.faults

# Beside it, `make test` keeps the machine busy with the tests of other processes.
BUSY_PROCESSES = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2
EVERY_NTH_HOUSEHOLD = 300


@pytest.fixture
def busy_machine() -> Iterator[None]:
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(BUSY_PROCESSES)]
    yield
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def demo_stack(stack: Stack) -> Iterator[Stack]:
    yield stack
    job_id = scene.interrupted_job(stack, _settings(stack))
    for job in rest.request(stack.rest_url, "/jobs/overview")["jobs"]:
        if job["name"] == scene.NAME and job["state"] not in rest.TERMINAL_STATES:
            rest.cancel(stack.rest_url, job["jid"])
    assert job_id is None
    stack.write_config()  # the demo has overwritten it
    stack.console.stop()
    stack.api.stop()


def _settings(stack: Stack):
    return scene.write_settings(stack)[1]


def run_demo(stack: Stack, stays: bool = False) -> tuple[dict, str]:
    output = StringIO()
    console = Console(file=output, width=100)
    summary = demo.run(stack, console, stays=stays, every_nth_household=EVERY_NTH_HOUSEHOLD)
    return summary, output.getvalue()


@pytest.mark.usefixtures("busy_machine")
def test_interrupted_demo_resumes_on_a_busy_machine(
    demo_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(watcher: JobWatcher) -> Snapshot:
        snapshot = look(watcher)
        if snapshot.used:
            raise ServiceError("interrupted")
        return snapshot

    look = JobWatcher.look
    with monkeypatch.context() as patch:
        patch.setattr(JobWatcher, "look", interrupt)
        with pytest.raises(ServiceError, match="interrupted"):
            run_demo(demo_stack)
    summary, output = run_demo(demo_stack, stays=True)
    assert "resuming its replay" in output
    assert summary["ok"]
    assert summary["audit"]["used"] == summary["purchases"]
    assert summary["audit"]["duplicate"] == 0
    pages = [(path, "</html>") for path, _ in open_console.pages(summary["shown"][0])]
    for path, shown in (
        *pages,
        (pages[1][0], "Interests"),
        ("/alerts?state=all", "data-flag="),
        ("/operations/trend?by=day", "<svg"),
        (f"/campaigns/{open_console.CAMPAIGN}", "</a>"),
    ):
        assert f"{summary['console']}/" in output
        with urlopen(f"{summary['console']}{path}", timeout=60) as page:
            assert shown in page.read().decode(), path
    with open_session(load(Path(summary["config"])).cassandra) as session:
        [key] = read_keys(session)
    assert key.role is Role.ADMIN
