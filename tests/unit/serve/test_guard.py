"""Request ids, limits, deadlines, log and metrics of every request; keys, scopes and rates."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from unittest.mock import AsyncMock

import httpx2
import pytest
from cassandra.cluster import Session
from fastapi.security import HTTPAuthorizationCredentials

from liveprofile.errors import ConfigError, InputError
from liveprofile.pseudonym import user_pseudonym
from liveprofile.settings import ServeSettings, load
from liveprofile.storage.cql import read
from serve.app import create_app
from serve.guard import MAX_BODY_BYTES
from serve.keys import READER, Scope, new_key, parse_key, revoke_key, scopes_of
from serve.problems import ApiError
from serve.security import CACHED_KEYS, Gatekeeper
from serve.store.link import THREADS
from tests.support.event_loop import on_loop
from tests.support.memory.api import NOW_MS, MemoryApi
from tests.unit.serve.conftest import Clock, Connect

BAD_CURSORS = ("x", "WyJhIl0", "e30", "Z", "é", "W10")


def test_request_id_is_echoed_or_made(connect: Connect) -> None:
    client = connect()
    given = client.get("/health/live", headers={"X-Request-Id": "shop-1.2_3"})
    assert given.headers["x-request-id"] == "shop-1.2_3"
    made = client.get("/health/live", headers={"X-Request-Id": 'a"b'}).headers["x-request-id"]
    assert len(made) == 32


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/users/", 404),
        ("GET", "/v1/users/nobody", 404),
        *(
            ("GET", f"/v1/users/{each}", 422)
            for each in ("%00", "%1F", "%FF", "x" * 257, "é" * 257)
        ),
        *(("GET", f"/v1/users/42/deltas?cursor={each}", 400) for each in BAD_CURSORS),
        # Buckets that do not exist: [64,"x"] and [-1,"x"].
        ("GET", "/v1/segments/loyal/members?cursor=WzY0LCJ4Il0", 400),
        ("GET", "/v1/segments/loyal/members?cursor=Wy0xLCJ4Il0", 400),
        ("DELETE", "/v1/users/42", 405),
        ("GET", "/v1/users/42?at=x", 422),
        ("GET", "/v1/users/42/deltas?limit=0", 422),
        ("GET", "/v1/users/42/deltas?limt=5", 422),
    ],
)
def test_every_error_is_a_problem(connect: Connect, method: str, path: str, status: int) -> None:
    answer = connect().request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["request_id"]) == (status, answer.headers["x-request-id"])
    if status == 400:
        assert problem["type"].endswith("invalid-cursor")


def test_store_that_does_not_answer_is_503_and_recovers(connect: Connect, api: MemoryApi) -> None:
    client = connect()
    assert client.get("/health/ready").status_code == 200
    api.session.stop_answering()
    assert client.get("/health/live").status_code == 200
    ready = client.get("/health/ready")
    assert (ready.status_code, ready.headers["retry-after"]) == (503, "1")
    api.session.fail = None
    assert client.get("/health/ready").status_code == 200


def test_slow_store_is_503_at_the_deadline(connect: Connect, api: MemoryApi) -> None:
    client = connect(deadline_ms=100)
    api.session.delay_s = 5.0
    started_s = time.monotonic()
    answer = client.get("/health/ready")
    assert time.monotonic() - started_s < api.session.delay_s - 1
    assert answer.status_code == 503
    assert "took too long" in answer.json()["detail"]


def test_bug_is_a_500_problem_with_the_request_id(
    connect: Connect, api: MemoryApi, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect()
    api.session.fail = KeyError("bug")
    answer = client.get("/health/ready", headers={"X-Request-Id": "abc"})
    assert answer.status_code == 500
    assert answer.json()["request_id"] == "abc"
    assert "bug" not in answer.text
    assert "request abc failed" in caplog.text


def test_large_body_is_a_413_problem(connect: Connect) -> None:
    answer = connect().post("/v1/users:batchGet", content=b"x" * (MAX_BODY_BYTES + 1))
    assert answer.status_code == 413


@asynccontextmanager
async def silent(api: MemoryApi, max_in_flight: int) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a server whose store does not answer."""
    app = create_app(ServeSettings(max_in_flight=max_in_flight, deadline_ms=60_000), api.store())
    api.session.delay_s = 600.0
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


@on_loop
async def test_too_many_requests_at_once_are_503(api: MemoryApi) -> None:
    async with silent(api, max_in_flight=2) as client:
        requests = [asyncio.create_task(client.get("/health/ready")) for _ in range(3)]
        first = asyncio.FIRST_COMPLETED
        done, waiting = await asyncio.wait(requests, timeout=30, return_when=first)
        assert [task.result().status_code for task in done] == [503]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        api.session.delay_s = 0.0
        assert (await client.get("/health/ready")).status_code == 200


@on_loop
async def test_reads_that_hang_leave_room_for_writes(api: MemoryApi) -> None:
    async with silent(api, max_in_flight=1) as client:
        hanging = asyncio.create_task(client.get("/health/ready"))
        await asyncio.sleep(0.05)
        batch = await client.post("/v1/users:batchGet", json={"user_ids": ["42"]})
        write = await client.put("/v1/users/42/erasure", json={})
        assert (batch.status_code, write.status_code) == (503, 401)
        hanging.cancel()


@on_loop
async def test_threads_of_reads_delay_no_writes_and_end_with_the_deadline(api: MemoryApi) -> None:
    store, go_on = api.store(), threading.Event()
    started, ended = list[int](), list[int]()

    def read_twice(session: Session) -> None:
        started.append(1)
        go_on.wait(60)
        read(session, "SELECT key FROM system.local")
        ended.append(1)

    reads = [asyncio.create_task(store.read(read_twice)) for _ in range(THREADS + 2)]
    while len(started) < THREADS:
        await asyncio.sleep(0.001)
    assert await asyncio.wait_for(store.run(lambda *_: "written", is_write=True), 30)
    for each in reads:
        each.cancel()
    await asyncio.gather(*reads, return_exceptions=True)
    go_on.set()
    await asyncio.to_thread(store._link._reads.shutdown)
    assert (len(started), ended) == (THREADS, [])


def test_log_has_pseudonyms_and_no_user_ids(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="serve"):
        connect(name="shop").get("/v1/users/secret-user", headers={"X-Request-Id": "r1"})
    [line] = [record.getMessage() for record in caplog.records if record.name == "serve.guard"]
    assert "GET /v1/users/{user_id} 404" in line
    assert f"key=shop user={user_pseudonym('secret-user')} request=r1" in line
    # The test's own HTTP client logs the address where another test has set the root level.
    server_lines = [r.getMessage() for r in caplog.records if not r.name.startswith("httpx")]
    assert not any("secret-user" in message for message in server_lines)


def test_metrics_count_requests_by_route(connect: Connect) -> None:
    client = connect()
    client.get("/v1/users/42")
    client.get("/v1/users/nobody")
    client.get("/elsewhere/42")
    text = client.get("/metrics").text
    route = 'method="GET",route="/v1/users/{user_id}"'
    assert f'liveprofile_api_requests_total{{{route},status="200"}} 1.0' in text
    assert f'liveprofile_api_requests_total{{{route},status="404"}} 1.0' in text
    assert 'route="none",status="404"' in text
    assert "elsewhere" not in text


def test_request_without_a_valid_key_is_a_401_problem(connect: Connect, api: MemoryApi) -> None:
    client, key = connect(None), api.add_key(READER)
    wrong = [f"Bearer lp_{key_id}_{'0' * 64}" for key_id in ("000000000000", key.stored.key_id)]
    for header in (None, "Bearer x", "Basic eDp5", *wrong):
        headers = {} if header is None else {"Authorization": header}
        answer = client.get("/v1/users/42", headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), header
        assert answer.json()["type"].endswith("unauthorized")
    headers = {"Authorization": f"Bearer {key.text}"}
    assert client.get("/v1/users/42", headers=headers).status_code == 200


def test_revoked_key_ends_when_the_cache_expires(
    connect: Connect, api: MemoryApi, clock: Clock
) -> None:
    client = connect()
    [key_id] = [row["key_id"] for row in api.session.rows("api_key")]
    assert client.get("/v1/users/42").status_code == 200
    revoke_key(api.session, key_id, NOW_MS)
    api.session.reads.clear()
    clock.s = 4.9
    assert client.get("/v1/users/42").status_code == 200
    assert "api_key" not in api.session.reads
    clock.s = 5.1
    assert client.get("/v1/users/42").status_code == 401


def test_key_that_cannot_be_checked_is_not_accepted(connect: Connect, api: MemoryApi) -> None:
    client = connect()
    api.session.stop_answering()
    answer = client.get("/v1/users/42")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


def test_rate_of_a_key_is_limited(connect: Connect, clock: Clock) -> None:
    client = connect(max_requests_per_s=1)
    assert [client.get("/v1/users/42").status_code for _ in range(3)] == [200, 200, 429]
    refused = client.get("/v1/users/42")
    assert refused.headers["retry-after"] == "1"
    clock.s = 1.0
    assert client.get("/v1/users/42").status_code == 200


def test_wrong_keys_from_one_address_are_limited(connect: Connect, api: MemoryApi) -> None:
    client, key = connect(None), api.add_key(READER)
    secrets = [key.text, *(f"lp_{number:012x}_{'0' * 64}" for number in range(25)), key.text]
    answers = [
        client.get("/v1/users/42", headers={"Authorization": f"Bearer {secret}"}).status_code
        for secret in secrets
    ]
    assert answers == [200, *[401] * 20, *[429] * 5, 200]
    assert api.session.reads.count("api_key") == 21


@on_loop
async def test_unknown_ids_do_not_displace_a_key(clock: Clock) -> None:
    key = new_key("anna", READER, "test", NOW_MS, 60)
    read = AsyncMock(side_effect=lambda key_id: {key.stored.key_id: key.stored}.get(key_id))
    gatekeeper = Gatekeeper(ServeSettings(), read, clock.now_ms, clock.now_s)
    wrong = [f"lp_{number:012x}_{'0' * 64}" for number in range(CACHED_KEYS + 1)]
    for number, text in enumerate([key.text, *wrong, key.text]):
        request = SimpleNamespace(client=SimpleNamespace(host=str(number)))
        bearer = HTTPAuthorizationCredentials(scheme="Bearer", credentials=text)
        with suppress(ApiError):
            await gatekeeper.identify(request, bearer)
    assert read.await_count == len(wrong) + 1


def test_without_authentication_everybody_on_this_machine_reads(connect: Connect) -> None:
    client = connect(None, authentication="none")
    assert client.get("/v1/users/42").status_code == 200
    rebound = client.get("/v1/users/42", headers={"Host": "evil.example"})
    assert rebound.status_code == 403


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"host": "0.0.0.0"}, "needs certificate_file"),
        ({"host": "10.0.0.1", "authentication": "none"}, 'needs authentication = "keys"'),
        ({"host": "::", "allow_plaintext": True, "authentication": "none"}, "authentication"),
        ({"certificate_file": "x"}, "need each other"),
        ({"key_password": "x"}, "needs key_file"),
    ],
)
def test_unsafe_settings_are_refused(section: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(serve=section)


def test_other_addresses_with_tls_or_a_proxy_are_accepted() -> None:
    load(serve={"host": "0.0.0.0", "allow_plaintext": True})
    load(serve={"host": "0.0.0.0", "certificate_file": "a", "key_file": "b"})
    assert load().serve.host == "127.0.0.1"


def test_new_keys_differ_and_the_secret_is_not_stored() -> None:
    first, second = (new_key("shop", READER, "anna", NOW_MS, 60) for _ in range(2))
    assert first.text != second.text
    key_id, secret = parse_key(first.text)
    assert key_id == first.stored.key_id
    assert secret not in str(first.stored)
    assert first.stored.accepts(secret, NOW_MS)
    assert not first.stored.accepts(secret, NOW_MS + 60_000)


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "a\n", "-a"])
def test_bad_key_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="key name"):
        new_key(name, READER, "anna", NOW_MS, 60)


def test_scopes_are_named_alone_or_as_a_set() -> None:
    assert scopes_of(["risk", "risk:write"]) == {Scope.RISK, Scope.RISK_WRITE}
    assert not scopes_of(["reader"]) & {Scope.PRIVACY, Scope.AUDIT, Scope.RULES_WRITE}
    with pytest.raises(InputError, match=r"risk, admn: known are profiles, lists, .*admin"):
        scopes_of(["risk", "admn"])
