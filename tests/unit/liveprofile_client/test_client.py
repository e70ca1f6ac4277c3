"""The client against the API in this process, and against servers that misbehave."""

import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from unittest.mock import Mock

import httpx2
import pytest
from starlette.testclient import TestClient

from liveprofile.settings import ServeSettings
from liveprofile_client import (
    BadAnswerError,
    Client,
    NoAnswerError,
    NotFoundError,
    RefusedError,
    calls,
)
from liveprofile_client.calls import Call
from serve.app import create_app
from serve.keys import READER, Scopes
from tests.support.generators import openapi
from tests.support.memory.api import NOW_MS, MemoryApi
from tests.support.paths import ROOT
from tests.support.rows.api_rows import fill
from tests.support.rows.statements import stated

FLAG = f"{4:032x}"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> MemoryApi:
    return fill(MemoryApi().install(monkeypatch))


def run(api: MemoryApi, call: Call, scopes: Scopes = READER) -> Any:
    """Runs a call against the API on this store."""
    app = create_app(ServeSettings(deadline_ms=30_000), api.store(), clock_ms=lambda: NOW_MS)
    options = {"attempts": 1, "transport": TestClient(app)._transport}
    known = next((each.text for each in api.keys if each.stored.scopes == scopes), "")
    with Client("http://127.0.0.1", known or api.add_key(scopes).text, **options) as client:
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
    with pytest.raises(RefusedError, match="scope risk:write"):
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


def client_of(answer: Callable[[httpx2.Request], httpx2.Response]) -> Client:
    return Client("http://shop", "lp_x", transport=httpx2.MockTransport(answer))


def problem(status: int) -> httpx2.Response:
    body = {"type": "t", "title": "t", "status": status, "detail": "d", "request_id": "r"}
    return httpx2.Response(status, json=body, headers={"Retry-After": "0"})


@pytest.mark.parametrize(
    ("call", "answers", "error"),
    [
        (calls.interests("42"), 3 * [problem(503)], RefusedError),
        (calls.interests("42"), 3 * [problem(429)], RefusedError),
        (calls.interests("42"), 3 * [httpx2.Response(502, text="proxy")], BadAnswerError),
        (calls.snooze("42", "*", for_s=60), [httpx2.ReadTimeout("slow")], NoAnswerError),
        (calls.profile("42"), [httpx2.Response(200, text="<html>")], BadAnswerError),
        (calls.profile("42"), [httpx2.Response(404, text="nginx")], BadAnswerError),
    ],
)
def test_only_reads_that_may_succeed_later_are_repeated(
    call: Call, answers: list[Any], error: type[Exception]
) -> None:
    answer = Mock(side_effect=answers)
    with client_of(answer) as client, pytest.raises(error):
        client.send(call)
    assert answer.call_count == len(answers)


def test_read_succeeds_after_failures() -> None:
    found = httpx2.Response(200, json={"next_items": [], "added_later": 1})
    answer = Mock(side_effect=[httpx2.ConnectError("refused"), problem(503), found])
    with client_of(answer) as client:
        assert client.send(calls.next_items("42")).next_items == []


def test_items_of_all_pages() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        number = int(request.url.params.get("cursor", "0"))
        cursor = str(number + 1) if number < 2 else None
        items = [{"user_id": f"u{number}"}]
        return httpx2.Response(200, json={"items": items, "next_cursor": cursor})

    with client_of(answer) as client:
        assert [case.user_id for case in client.items(calls.cases(limit=1))] == ["u0", "u1", "u2"]


def test_client_needs_neither_model_nor_flink_nor_driver() -> None:
    heavy = ("torch", "pyflink", "cassandra", "confluent_kafka", "numpy", "pandas", "fastapi")
    code = f"import sys, liveprofile_client; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
