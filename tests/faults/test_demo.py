"""The demo runs on a busy machine, and every command of the tutorials on its data.

Load: processes that use all the processor time they get.
Must hold: no event is lost or used twice, the audit is clean, the console shows the data.
"""

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
from liveprofile.flink import rest
from liveprofile.flink.job_report import running_jobs
from liveprofile.settings import load
from liveprofile.storage.connection import open_session
from serve.keys import ADMIN, read_keys
from stack.local import Stack
from tests.support.job_under_test import run_cli
from tests.support.paths import ROOT

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
    for job_id in running_jobs(stack.rest_url, scene.NAME):
        rest.cancel(stack.rest_url, job_id)
    stack.write_config()  # the demo has overwritten it
    stack.console.stop()
    stack.api.stop()


@pytest.fixture(scope="module")
def shown(demo_stack: Stack) -> tuple[dict, str]:
    """Summary and output of a demo."""
    output = StringIO()
    console = Console(file=output, width=100)
    with busy_machine():
        summary = demo.run(demo_stack, console, stays=True, every_nth_household=EVERY_NTH_HOUSEHOLD)
    return summary, output.getvalue()


def test_demo_on_a_busy_machine_loses_nothing(shown: tuple[dict, str]) -> None:
    summary, output = shown
    assert summary["ok"]
    assert summary["audit"]["used"] == summary["purchases"]
    assert summary["audit"]["duplicate"] == 0
    pages = [(path, "</html>") for path, _ in open_console.pages(summary["shown"][0])]
    for path, text in (
        *pages,
        (pages[1][0], "Interests"),
        ("/alerts?state=all", "data-flag="),
        ("/operations/trend?by=day", "<svg"),
        (f"/campaigns/{open_console.CAMPAIGN}", "</a>"),
    ):
        assert f"{summary['console']}/" in output
        with urlopen(f"{summary['console']}{path}", timeout=60) as page:
            assert text in page.read().decode(), path
    with open_session(load(Path(summary["config"])).cassandra) as session:
        [key] = read_keys(session)
    assert key.scopes == ADMIN


def test_every_command_of_the_tutorials_runs(
    demo_stack: Stack, shown: tuple[dict, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary, _ = shown
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
