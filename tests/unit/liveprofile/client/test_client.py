"""The client against the API in this process, and against servers that misbehave."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from liveprofile.client import (
    BadAnswerError,
    Client,
    NoAnswerError,
    NotFoundError,
    RefusedError,
    calls,
)
from liveprofile.client.calls import Call
from liveprofile.settings import ServeSettings
from serve import openapi
from serve.app import create_app
from serve.keys import Role
from tests.support.memory.api import NOW_MS, MemoryApi
from tests.support.paths import ROOT
from tests.support.rows.api_rows import fill
from tests.support.rows.statements import stated

FLAG = f"{4:032x}"
OK = {"status": "ok"}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> MemoryApi:
    return fill(MemoryApi().install(monkeypatch))


def run(api: MemoryApi, call: Call, role: Role = Role.READER) -> Any:
    """Runs a call against the API on this store."""
    app = create_app(ServeSettings(deadline_ms=30_000), api.store(), clock_ms=lambda: NOW_MS)
    options = {"attempts": 1, "transport": TestClient(app)._transport}
    known = next((each.text for each in api.keys if each.stored.role is role), "")
    with Client("http://127.0.0.1", known or api.add_key(role).text, **options) as client:
        return client.send(call)


def test_fields_of_answers_are_attributes_and_items(api: MemoryApi) -> None:
    at = datetime.fromtimestamp(NOW_MS / 1_000, UTC)
    past = run(api, calls.profile("42", at=at))
    assert past.window_end_ms == past["window_end_ms"] == NOW_MS
    assert run(api, calls.profiles(user_ids=["42", "x"])).unknown == ["x"]
    assert run(api, calls.interests("42")).category_affinity == {"café": 1.0}
    assert len(run(api, calls.flags("42", since=at))["items"]) == 4
    api.put(stated("42", NOW_MS, vip=True, score=0.5))
    assert [one.value for one in run(api, calls.attributes("42"))["items"]] == [0.5, True]
    with pytest.raises(AttributeError):
        print(past.colour)


def test_errors_of_the_server_have_their_problem(api: MemoryApi) -> None:
    with pytest.raises(NotFoundError, match="no profile of this user") as caught:
        run(api, calls.profile("nobody"))
    assert caught.value.problem.type.endswith("unknown-user")
    with pytest.raises(RefusedError, match="role analyst"):
        run(api, calls.set_state(FLAG, state="closed"))
    with pytest.raises(RefusedError) as invalid:
        run(api, calls.profiles(user_ids=[]))
    assert invalid.value.problem.errors[0].field == "body.user_ids"


def test_each_route_of_the_document_has_a_call() -> None:
    documented = {
        (method.upper(), re.sub(r"{\w+}", "{}", path))
        for path, methods in openapi.document()["paths"].items()
        for method in methods
    }
    routes = [each for each in vars(calls).values() if isinstance(each, calls.Route)]
    without = {("GET", "/metrics"), ("GET", "/health/live")}
    assert {(each.method, each.path) for each in routes} == documented - without


def test_ids_values_and_tag_of_a_call() -> None:
    path = "/v1/users/a%2Fb/consents/risk"
    consent = calls.put_consent("a/b", "risk", granted=True, time_ms=None)
    assert (consent.path, consent.params, consent.body) == (path, {}, {"granted": True})
    put = calls.put_rules(rules=[], tag="t1", dry_run=True)
    assert (put.params, put.body, put.headers) == (
        {"dry_run": True},
        {"rules": []},
        {"If-Match": '"t1"'},
    )
    with pytest.raises(TypeError, match="other ids"):
        calls.snooze("42", for_s=60)
    campaign = calls.plan_campaign("spring"), calls.plan_campaign("spring", dry_run=True)
    assert [each.retried for each in campaign] == [False, True]


def client_of(answer: Callable[[httpx2.Request], httpx2.Response], **options: Any) -> Client:
    return Client("http://shop", "lp_x", transport=httpx2.MockTransport(answer), **options)


def problem(status: int) -> httpx2.Response:
    body = {"type": "t", "title": "t", "status": status, "detail": "d", "request_id": "r"}
    return httpx2.Response(status, json=body, headers={"Retry-After": "0"})


@pytest.mark.parametrize(
    ("status", "error"),
    [(503, RefusedError), (429, RefusedError), (502, BadAnswerError)],
)
def test_read_is_repeated_and_then_fails(status: int, error: type[Exception]) -> None:
    numbers = count(1)

    def answer(request: httpx2.Request) -> httpx2.Response:
        next(numbers)
        return problem(status) if status != 502 else httpx2.Response(502, text="proxy")

    with client_of(answer) as client, pytest.raises(error):
        client.send(calls.interests("42"))
    assert next(numbers) == 4


def test_read_succeeds_after_failures() -> None:
    failures = iter([httpx2.ConnectError("refused"), problem(503)])

    def answer(request: httpx2.Request) -> httpx2.Response:
        failure = next(failures, None)
        if isinstance(failure, Exception):
            raise failure
        body = {"user_id": "42", "window_end_ms": 1, "model_version": "m", "next_items": []}
        return failure or httpx2.Response(200, json=body | {"added_later": 1})

    with client_of(answer) as client:
        assert client.send(calls.next_items("42")).next_items == []


def test_items_of_all_pages() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        number = int(request.url.params.get("cursor", "0"))
        snooze = {"user_id": f"u{number}", "rule_id": "r", "number": 1, "is_open": True}
        rest = {"opened_at_ms": 1, "severity": "s", "action": "a", "message": "m", "alerts": {}}
        cursor = str(number + 1) if number < 2 else None
        return httpx2.Response(200, json={"items": [snooze | rest], "next_cursor": cursor})

    with client_of(answer) as client:
        assert [case.user_id for case in client.items(calls.cases(limit=1))] == ["u0", "u1", "u2"]


def test_snooze_is_sent_once() -> None:
    numbers = count(1)

    def answer(request: httpx2.Request) -> httpx2.Response:
        next(numbers)
        raise httpx2.ReadTimeout("slow")

    with client_of(answer) as client, pytest.raises(NoAnswerError, match="ReadTimeout"):
        client.send(calls.snooze("42", "*", for_s=60))
    assert next(numbers) == 2


@pytest.mark.parametrize(
    "response", [httpx2.Response(200, text="<html>"), httpx2.Response(404, text="nginx")]
)
def test_answer_of_another_server_is_named(response: httpx2.Response) -> None:
    with client_of(lambda request: response) as client, pytest.raises(BadAnswerError):
        client.send(calls.profile("42"))


def test_client_needs_neither_model_nor_flink_nor_driver() -> None:
    heavy = ("torch", "pyflink", "cassandra", "confluent_kafka", "numpy", "pandas", "fastapi")
    code = f"import sys, liveprofile.client; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
