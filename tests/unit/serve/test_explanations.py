"""Explanations of windows over HTTP, with an explainer in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import httpx2
import pytest
from starlette.testclient import TestClient

from liveprofile.client import Client, Conflict, calls
from liveprofile.consent.changes import ConsentChange
from liveprofile.errors import ServiceError
from liveprofile.privacy.places import TABLES, UserKeys, is_theirs
from liveprofile.pseudonym import user_pseudonym
from liveprofile.settings import ServeSettings
from serve.app import create_app
from serve.explainer import ExplainerBusy, ExplanationRefused, ExplanationTimeout
from serve.keys import Role
from services.privacy import change_consents, request_erasure
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


@pytest.mark.parametrize("role", [Role.READER, Role.PRIVACY])
def test_explaining_needs_an_analyst(
    connect: Connect, explainer: MemoryExplainer, role: Role
) -> None:
    assert connect(role).post(PATH).status_code == 403
    assert connect(None).post(PATH).status_code == 401
    assert connect(Role.ADMIN).post(PATH).status_code == 200
    assert len(explainer.asked) == 1


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
        (ExplanationRefused("other-model", "model m1"), 409, "other-model", "refused"),
        (ExplanationRefused("other-events", "expired"), 409, "other-events", "refused"),
        (ExplanationRefused("erased-user", "erased"), 404, "unknown-user", "refused"),
        (ExplanationRefused("unknown-window", "none"), 404, "unknown-past", "refused"),
        (ExplainerBusy("1 is under way"), 503, "unavailable", "refused"),
        (ExplanationTimeout("not done"), 503, "unavailable", "failed"),
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


def test_client_that_leaves_ends_the_computation(
    api: MemoryApi, explainer: MemoryExplainer
) -> None:
    explainer.delay_s = 600.0
    key = api.add_key(Role.ANALYST).text
    app = create_app(ServeSettings(), api.store(), clock_ms=lambda: NOW_MS, explainer=explainer)
    sent: list[dict] = []

    async def run() -> None:
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

    asyncio.run(run())
    assert explainer.cancelled == 1
    assert [entry.outcome for entry in api.audit] == ["failed"]


def test_log_names_no_user(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="serve"):
        connect(Role.ANALYST).post("/v1/users/secret-user/explanations")
    [line] = [record.getMessage() for record in caplog.records if record.name == "serve.guard"]
    assert "POST /v1/users/{user_id}/explanations 404" in line
    assert user_pseudonym("secret-user") in line
    assert not any("secret-user" in r.getMessage() for r in caplog.records if "httpx" not in r.name)


def test_client_sends_the_call_once(connect: Connect, explainer: MemoryExplainer) -> None:
    server = connect(Role.ANALYST)

    def handle(request: httpx2.Request) -> httpx2.Response:
        path, body = request.url.raw_path.decode(), request.content
        answer = server.post(path, content=body, headers={"content-type": "application/json"})
        return httpx2.Response(answer.status_code, content=answer.content)

    with Client("http://127.0.0.1", transport=httpx2.MockTransport(handle)) as client:
        found = client.send(calls.explanation("42"))
        assert found.effects[1].moved_interests == [("coffee", 0.2, 0.5)]
        assert found.stored.churn == 0.23
        explainer.fail = ExplanationRefused("other-values", "settings have changed")
        with pytest.raises(Conflict, match="settings have changed"):
            client.send(calls.explanation("42", at_ms=found.window_end_ms))
        explainer.fail = ExplainerBusy("busy")
        with pytest.raises(Exception, match="busy"):
            client.send(calls.explanation("42"))
    assert len(explainer.asked) == 3
