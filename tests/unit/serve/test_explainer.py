"""Explanations in child processes, which are small scripts here."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from liveprofile.errors import ServiceError
from serve.explainer import (
    Explainer,
    ExplainerBusy,
    ExplanationRefused,
    ExplanationTimeout,
)

# Starts a process of its own, as the job does, tells both ids, and waits.
SLOW = """
import os, pathlib, subprocess, sys, time
own = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path({ids!r}).write_text(f"{{os.getpid()}} {{own.pid}}")
time.sleep(600)
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLOW


def explainer(script: str, at_once: int = 1, timeout_s: float = 60.0) -> Explainer:
    command = [sys.executable, "-c", script]
    return Explainer(command, dict(os.environ), {"config": "c.toml"}, at_once, timeout_s)


def explain(script: str, **options: Any) -> dict[str, Any]:
    return asyncio.run(explainer(script, **options).explain("ü-42", 7))


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def ids_of(file: Path) -> list[int]:
    """The ids that SLOW has written."""
    while not file.exists() or len(file.read_text().split()) < 2:
        await asyncio.sleep(0.01)
    return [int(each) for each in file.read_text().split()]


def test_child_gets_the_request_and_its_answer_is_returned() -> None:
    script = """
import json, os, sys, tempfile
request = json.loads(sys.stdin.readline())
own = tempfile.gettempdir()
print(json.dumps({"explanation": {"request": request, "folder": own, "group": os.getpgrp()}}))
"""
    found = explain(script)
    assert found["request"] == {"config": "c.toml", "user_id": "ü-42", "until_ms": 7}
    assert Path(found["folder"]).name.startswith("liveprofile-explain-")
    assert not Path(found["folder"]).exists()
    assert found["group"] != os.getpgrp()


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        (
            'print(\'{"refused": {"kind": "other-model", "detail": "m1"}}\')',
            ExplanationRefused,
            "m1",
        ),
        ('print(\'{"unavailable": "Kafka"}\')', ServiceError, "Kafka"),
        ("print('{\"other\": 1}')", RuntimeError, "answered with"),
        ("raise SystemExit(3)", RuntimeError, "code 3"),
        ("pass", RuntimeError, "code 0"),
        ("import os; os.abort()", RuntimeError, "code -6"),
    ],
)
def test_other_answers_are_errors(script: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        explain(script)


@pytest.mark.slow
@pytest.mark.parametrize("script", [SLOW, STUBBORN], ids=["slow", "stubborn"])
def test_child_ends_with_its_processes_at_the_deadline(script: str, tmp_path: Path) -> None:
    ids = tmp_path / "ids"
    with pytest.raises(ExplanationTimeout, match="not done within 5 s"):
        explain(script.format(ids=str(ids)), timeout_s=5.0)
    assert ids.exists(), "the child needs longer to start"
    assert not any(map(is_running, map(int, ids.read_text().split())))


def test_child_ends_if_the_caller_leaves_and_another_may_start(tmp_path: Path) -> None:
    ids = tmp_path / "ids"
    own = explainer(SLOW.format(ids=str(ids)))

    async def run() -> None:
        first = asyncio.create_task(own.explain("u", None))
        started = await ids_of(ids)
        with pytest.raises(ExplainerBusy, match="max_explanations"):
            await own.explain("u", None)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert not any(map(is_running, started))
        ids.unlink()
        second = asyncio.create_task(own.explain("u", None))
        await ids_of(ids)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)

    asyncio.run(run())


def test_processes_end_if_the_caller_leaves_while_they_start(tmp_path: Path) -> None:
    ids = tmp_path / "ids"
    own = explainer(SLOW.format(ids=str(ids)))

    async def run() -> None:
        others = set(psutil.Process().children())
        task = asyncio.create_task(own.explain("u", None))
        while others.issuperset(psutil.Process().children()):
            await asyncio.sleep(0)  # a turn of the event loop
        # The child is faster than the event loop, which has not yet connected its pipes.
        while not ids.exists() or len(ids.read_text().split()) < 2:
            time.sleep(0.01)
        task.cancel()
        done, _ = await asyncio.wait((task,), timeout=30)
        assert done and task.cancelled()
        assert not any(map(is_running, await ids_of(ids)))

    asyncio.run(run())


def test_several_children_run_at_once(tmp_path: Path) -> None:
    own = explainer(SLOW.format(ids=str(tmp_path / "ids")), at_once=2)

    async def run() -> None:
        tasks = [asyncio.create_task(own.explain("u", None)) for _ in range(2)]
        await ids_of(tmp_path / "ids")
        with pytest.raises(ExplainerBusy):
            await own.explain("u", None)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


def test_event_loop_answers_while_a_child_runs(tmp_path: Path) -> None:
    own = explainer("import time; time.sleep(1); print('{\"explanation\": {}}')")

    async def run() -> int:
        task = asyncio.create_task(own.explain("u", None))
        turns = 0
        while not task.done():
            await asyncio.sleep(0.005)
            turns += 1
        return turns

    assert asyncio.run(run()) > 20
