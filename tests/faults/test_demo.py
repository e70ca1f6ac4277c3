"""The demo runs on a busy machine and is interrupted.

Load: processes that use all the processor time they get. Fault: the demo ends in the middle of its
replay.
Must hold: the next demo resumes the replay, no event is lost or sent twice, the audit is clean.
Recovery: running the demo again. Its data is that of the tutorials.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import string
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
from tests.support.job_under_test import run_cli
from tests.support.paths import ROOT

pytestmark = pytest.mark.faults

# Beside it, `make test` keeps the machine busy with the tests of other processes.
BUSY_PROCESSES = 0 if "PYTEST_XDIST_WORKER" in os.environ else 2
EVERY_NTH_HOUSEHOLD = 300


@contextmanager
def busy_machine() -> Iterator[None]:
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(BUSY_PROCESSES)]
    yield
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def resumed(demo_stack: Stack) -> tuple[dict, str]:
    """Summary and output of a demo that resumes an interrupted one."""

    def interrupt(watcher: JobWatcher) -> Snapshot:
        snapshot = look(watcher)
        if snapshot.used:
            raise ServiceError("interrupted")
        return snapshot

    look = JobWatcher.look
    with busy_machine():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(JobWatcher, "look", interrupt)
            with pytest.raises(ServiceError, match="interrupted"):
                run_demo(demo_stack)
        return run_demo(demo_stack, stays=True)


def test_interrupted_demo_resumes_on_a_busy_machine(resumed: tuple[dict, str]) -> None:
    summary, output = resumed
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


def test_every_command_of_the_tutorials_runs(
    demo_stack: Stack, resumed: tuple[dict, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary, _ = resumed
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIVEPROFILE_CONFIG", str(summary["config"]))
    for file in ("rules.toml", "segments.toml"):
        shutil.copy(ROOT / file, tmp_path)
    page = (ROOT / "docs" / "tutorials.md").read_text("utf-8")
    [flag] = json.loads(run("risk alerts list --limit 1 --json"))
    values = {"HOUSEHOLD": summary["shown"][0], "FLAG": flag["flag_id"]}
    [example] = re.findall(r"^```python\n(.+?)^```", page, re.MULTILINE | re.DOTALL)
    exec(example, {"URL": demo_stack.api.url, **values})
    for command in re.findall(r"^    liveprofile (.+)$", page, re.MULTILINE):
        # A machine that is busy may give them something to warn of.
        warns = command in ("job status", "doctor")
        run(string.Template(command).substitute(values), codes=(0, 1) if warns else (0,))
    run(f"profile show {values['HOUSEHOLD']}", codes=(1,))  # erased


def run(command: str, codes: tuple[int, ...] = (0,)) -> str:
    done = run_cli(*shlex.split(command), ok=False)
    assert done.returncode in codes, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout
