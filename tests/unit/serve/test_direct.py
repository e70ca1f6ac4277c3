"""Plain reads of profiles answer as the routes do that describe them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from pydantic import BaseModel
from starlette.testclient import TestClient

from liveprofile.client.models import Profile, ProfileBatch
from liveprofile.units import HOUR_MS
from serve import direct
from tests.support.memory.api import NOW_MS, MemoryApi
from tests.support.rows.api_rows import USERS, raw_profile
from tests.support.rows.value_curves import curve_document

Connect = Callable[..., TestClient]
BATCH = "/v1/users:batchGet"
# The routes of FastAPI take these, and they ask for the same.
ROUTED_QUERY = {"embedding": "false"}
ROUTED_TYPE = "application/json; charset=utf-8"


@pytest.fixture
def api(api: MemoryApi) -> MemoryApi:
    row = raw_profile("curve", NOW_MS - 5 * HOUR_MS)
    document = orjson.loads(row.profile) | curve_document()
    api.put(row._replace(profile=orjson.dumps(document).decode()))
    api.put(raw_profile("bare")._replace(segments=None, recency_days=2.0))
    return api


def comparable(answer: Any) -> tuple[int, dict[str, str], bytes]:
    request_id = answer.headers["x-request-id"]
    headers = {
        name: value
        for name, value in answer.headers.items()
        if name not in ("x-request-id", "content-length")
    }
    return answer.status_code, headers, answer.content.replace(request_id.encode(), b"")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "OPTIONS"])
@pytest.mark.parametrize(
    "encoded",
    [
        *(quote(user, safe="") for user in USERS),
        *("curve", "bare", "nobody", "%00", "%FF", "a:b", "%3A", ".%2F"),
        *("x" * 257, quote("é" * 257), "x" * 4_000),
    ],
    ids=lambda text: text[:12],
)
def test_profile_equals_that_of_the_route(connect: Connect, method: str, encoded: str) -> None:
    client = connect()
    plain = client.request(method, f"/v1/users/{encoded}")
    routed = client.request(method, f"/v1/users/{encoded}", params=ROUTED_QUERY)
    assert comparable(plain) == comparable(routed)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer x"},
        {"Authorization": "Basic eDp5"},
        {"Authorization": ""},
        {"If-None-Match": "*"},
        {"If-None-Match": '"x"'},
        {"Accept": "text/html"},
    ],
)
def test_headers_count_as_for_the_route(connect: Connect, headers: dict[str, str]) -> None:
    client = connect()
    plain = client.get("/v1/users/curve", headers=headers)
    routed = client.get("/v1/users/curve", headers=headers, params=ROUTED_QUERY)
    assert comparable(plain) == comparable(routed)


@pytest.mark.parametrize(
    "body",
    [
        {"user_ids": ["Zoë/ü", "nobody", "curve", "42", "42"]},
        {"user_ids": ["42"], "embedding": True},
        {"user_ids": []},
        {"user_ids": ["x"] * 101},
        {"user_ids": ["\u0000"]},
        {"user_ids": [1]},
        {"user_ids": "42"},
        {"user_ids": ["42"], "other": 1},
        {},
        [],
    ],
    ids=str,
)
def test_batch_equals_that_of_the_route(connect: Connect, body: Any) -> None:
    same_batch(connect(), orjson.dumps(body))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b'{"user_ids": ["\\ud800"]}', b'{"user_ids": ["1"], "user_ids": ["42"]}'],
)
def test_malformed_batch_equals_that_of_the_route(connect: Connect, content: bytes) -> None:
    same_batch(connect(), content)


def same_batch(client: TestClient, content: bytes) -> None:
    plain, routed = (
        client.post(BATCH, content=content, headers={"Content-Type": kind})
        for kind in ("application/json", ROUTED_TYPE)
    )
    assert comparable(plain) == comparable(routed)


def test_reads_without_a_key_or_above_the_rate_are_refused(connect: Connect) -> None:
    assert connect(None).post(BATCH, json={"user_ids": ["42"]}).status_code == 401
    client = connect(max_requests_per_s=5)
    assert client.post(BATCH, json={"user_ids": ["42"]}).status_code == 200
    assert client.post(BATCH, json={"user_ids": ["42"]}).status_code == 429
    assert client.get("/v1/users/42").status_code == 429


def test_store_that_does_not_answer_is_503(connect: Connect, api: MemoryApi) -> None:
    client = connect(None, authentication="none")
    api.session.stop_answering()
    assert client.get("/v1/users/42").status_code == 503
    assert client.post(BATCH, json={"user_ids": ["42"]}).status_code == 503


@pytest.mark.parametrize("user_id", ["42", "curve", "bare"])
def test_answer_equals_the_json_of_its_model(connect: Connect, user_id: str) -> None:
    client = connect()
    equals_model(client.get(f"/v1/users/{user_id}").content, Profile)
    batch = client.post(BATCH, json={"user_ids": [user_id, "nobody"]})
    equals_model(batch.content, ProfileBatch)


def equals_model(content: bytes, model: type[BaseModel]) -> None:
    parsed = model.model_validate_json(content)
    assert orjson.loads(content) == orjson.loads(parsed.model_dump_json(exclude_unset=True))


def test_plain_reads_are_answered_directly_and_others_by_fastapi(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: list[str] = []

    def recorded(name: str) -> Callable[..., Any]:
        own = getattr(direct, name)

        def answer(*values: Any) -> Any:
            answered.append(name)
            return own(*values)

        return answer

    for name in ("profile_response", "batch_response"):
        monkeypatch.setattr(direct, name, recorded(name))
    client = connect()
    client.get("/v1/users/42")
    client.post(BATCH, json={"user_ids": ["42"]})
    client.post(BATCH, json={})
    client.get("/v1/users/42/deltas")
    client.get("/v1/users/42", params=ROUTED_QUERY)
    assert answered == ["profile_response", "batch_response"]
