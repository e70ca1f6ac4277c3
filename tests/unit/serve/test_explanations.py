"""Explanations of windows, over HTTP and in child processes, which are small scripts here."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from starlette.testclient import TestClient

from liveprofile.consent.changes import ConsentChange
from liveprofile.errors import ServiceError
from liveprofile.privacy.places import TABLES, UserKeys, is_theirs
from liveprofile.settings import ServeSettings
from serve.app import create_app
from serve.explainer import (
    Explainer,
    ExplainerBusyError,
    ExplanationRefusedError,
    ExplanationTimeoutError,
)
from serve.keys import Role
from services.privacy import change_consents, request_erasure
from tests.support.event_loop import on_loop
from tests.support.memory.api import NOW_MS, MemoryApi
from tests.support.memory.explainer import MemoryExplainer, explanation
from tests.support.rows.api_rows import raw_delta

Connect = Callable[..., TestClient]
PATH = "/v1/users/42/explanations"


def ends_ms(api: MemoryApi, user_id: str) -> list[int]:
    rows = api.session.rows("profile_delta")
    return [row["window_end"] for row in rows if row["user_id"] == user_id]


def newest_end_ms(api: MemoryApi, user_id: str = "42") -> int:
    return max(ends_ms(api, user_id))


def kind(answer: httpx2.Response) -> str:
    return answer.json()["type"].rpartition(":")[2]


def test_newest_window_is_explained_and_recorded(
    connect: Connect, api: MemoryApi, explainer: MemoryExplainer
) -> None:
    answer = connect(Role.ANALYST).post(PATH)
    end_ms = newest_end_ms(api)
    assert answer.json() == explanation("42", end_ms)
    assert explainer.asked == [("42", end_ms)]
    [entry] = api.audit
    assert (entry.name, entry.action, entry.target) == ("anna", "window.explain", f"42 {end_ms}")
    assert entry.outcome == "done"
    # It is deleted with the user.
    assert is_theirs(TABLES["api_audit"], entry, UserKeys("42"))


def test_time_chooses_the_last_window_before_it(
    connect: Connect, api: MemoryApi, explainer: MemoryExplainer
) -> None:
    client = connect(Role.ANALYST)
    ends = sorted(ends_ms(api, "42"))
    for at_ms, end_ms in ((ends[0], ends[0]), (ends[1] - 1, ends[0])):
        assert client.post(PATH, json={"at_ms": at_ms}).status_code == 200
        assert explainer.asked[-1] == ("42", end_ms)
    before = client.post(PATH, json={"at_ms": ends[0] - 1})
    assert (before.status_code, kind(before)) == (404, "unknown-past")
    assert client.post(PATH, json={"at": 1}).status_code == 422
    assert len(api.audit) == 2


def test_erased_user_is_unknown(
    connect: Connect, api: MemoryApi, explainer: MemoryExplainer
) -> None:
    client = connect(Role.ANALYST)
    request_erasure(api.session, api.settings, "42", newest_end_ms(api))
    answer = client.post(PATH)
    assert (answer.status_code, kind(answer)) == (404, "unknown-user")
    assert (explainer.asked, api.audit) == ([], [])  # an entry would hold the id again
    request_erasure(api.session, api.settings, "Zoë/ü", 1)
    api.put(raw_delta(0, "Zoë/ü"))  # of a later time
    assert client.post("/v1/users/Zo%C3%AB%2F%C3%BC/explanations").status_code == 200


def test_user_who_does_not_allow_profiling_is_refused(
    connect: Connect, api: MemoryApi, explainer: MemoryExplainer
) -> None:
    withdrawn = ConsentChange(NOW_MS, "profiling", False)
    change_consents(api.session, api.settings, [("42", withdrawn)])
    answer = connect(Role.ANALYST).post(PATH)
    assert (answer.status_code, kind(answer)) == (409, "no-consent")
    assert explainer.asked == []
    assert (api.audit[0].outcome, api.audit[0].after["reason"]) == ("refused", "no-consent")


@pytest.mark.parametrize(
    ("error", "status", "problem", "outcome"),
    [
        (ExplanationRefusedError("other-model", "model m1"), 409, "other-model", "refused"),
        (ExplanationRefusedError("other-events", "expired"), 409, "other-events", "refused"),
        (ExplanationRefusedError("erased-user", "erased"), 404, "unknown-user", "refused"),
        (ExplanationRefusedError("unknown-window", "none"), 404, "unknown-past", "refused"),
        (ExplainerBusyError("1 is under way"), 503, "unavailable", "refused"),
        (ExplanationTimeoutError("not done"), 503, "unavailable", "failed"),
        (ServiceError("Kafka"), 503, "unavailable", "failed"),
        (RuntimeError("bug"), 500, "internal", "failed"),
    ],
)
def test_refusals_are_problems(
    connect: Connect,
    api: MemoryApi,
    explainer: MemoryExplainer,
    error: Exception,
    status: int,
    problem: str,
    outcome: str,
) -> None:
    explainer.fail = error
    answer = connect(Role.ANALYST).post(PATH)
    assert (answer.status_code, kind(answer)) == (status, problem)
    assert answer.headers["content-type"] == "application/problem+json"
    assert ("retry-after" in answer.headers) == (status == 503)
    assert [entry.outcome for entry in api.audit] == [outcome]


def test_server_without_the_model_packages_says_so(api: MemoryApi) -> None:
    key = api.add_key(Role.ANALYST).text
    app = create_app(ServeSettings(), api.store(), clock_ms=lambda: NOW_MS)
    client = TestClient(app, headers={"Authorization": f"Bearer {key}"})
    answer = client.post(PATH)
    assert (answer.status_code, kind(answer)) == (501, "not-installed")
    assert "liveprofile profile explain" in answer.json()["detail"]


def test_explanation_may_take_longer_than_other_requests(
    connect: Connect, explainer: MemoryExplainer
) -> None:
    explainer.delay_s = 1.0
    client = connect(Role.ANALYST, deadline_ms=800)
    assert client.post(PATH).status_code == 200


@on_loop
async def test_client_that_leaves_ends_the_computation(
    api: MemoryApi, explainer: MemoryExplainer
) -> None:
    explainer.delay_s = 600.0
    key = api.add_key(Role.ANALYST).text
    app = create_app(ServeSettings(), api.store(), clock_ms=lambda: NOW_MS, explainer=explainer)
    sent: list[dict] = []
    left = asyncio.Event()
    body = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict:
        if body:
            return body.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {key}".encode()), (b"host", b"127.0.0.1")]
    scope = {"type": "http", "method": "POST", "path": PATH, "raw_path": PATH.encode()}
    scope |= {"query_string": b"", "headers": headers, "client": ("127.0.0.1", 1)}
    scope |= {"server": ("127.0.0.1", 80), "scheme": "http", "http_version": "1.1"}
    request = asyncio.create_task(app(scope, receive, send))
    while not explainer.asked:
        await asyncio.sleep(0.01)
    left.set()
    await asyncio.wait_for(request, 30)
    assert explainer.cancelled == 1
    assert [entry.outcome for entry in api.audit] == ["failed"]


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


def all_end(processes: Iterable[int], seconds: float = 10.0) -> bool:
    """Whether they end; a busy machine takes its time to end a process that was killed."""
    left, end_s = list(processes), time.monotonic() + seconds
    while left and time.monotonic() < end_s:
        left = list(filter(is_running, left))
        time.sleep(0.01)
    return not left


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
            ExplanationRefusedError,
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
    with pytest.raises(ExplanationTimeoutError, match="not done within 5 s"):
        explain(script.format(ids=str(ids)), timeout_s=5.0)
    assert ids.exists(), "the child needs longer to start"
    assert all_end(map(int, ids.read_text().split()))


@on_loop
async def test_child_ends_if_the_caller_leaves_and_another_may_start(tmp_path: Path) -> None:
    ids = tmp_path / "ids"
    own = explainer(SLOW.format(ids=str(ids)))
    first = asyncio.create_task(own.explain("u", None))
    started = await ids_of(ids)
    with pytest.raises(ExplainerBusyError, match="max_explanations"):
        await own.explain("u", None)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert all_end(started)
    ids.unlink()
    second = asyncio.create_task(own.explain("u", None))
    await ids_of(ids)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)


@on_loop
async def test_processes_end_if_the_caller_leaves_while_they_start(tmp_path: Path) -> None:
    ids = tmp_path / "ids"
    own = explainer(SLOW.format(ids=str(ids)))
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
    assert all_end(await ids_of(ids))
