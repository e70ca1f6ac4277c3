"""Keys, roles, rates, and what the server refuses to listen on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from liveprofile.errors import ConfigError, InputError
from liveprofile.settings import load
from serve.keys import Role, new_key, parse_key, revoke_key
from tests.support.memory.api import NOW_MS, MemoryApi
from tests.unit.serve.conftest import Clock

Connect = Callable[..., TestClient]


@pytest.mark.parametrize(
    "header", [None, "Bearer x", "Basic eDp5", "Bearer lp_000000000000_" + "0" * 64]
)
def test_request_without_a_valid_key_is_a_401_problem(connect: Connect, header: str | None) -> None:
    client = connect(None)
    headers = {} if header is None else {"Authorization": header}
    answer = client.get("/v1/users/42", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["type"].endswith("unauthorized")


def test_key_with_another_secret_is_refused(connect: Connect, api: MemoryApi) -> None:
    key = api.add_key(Role.READER)
    forged = f"lp_{key.stored.key_id}_{'0' * 64}"
    client = connect(None)
    for text, status in ((forged, 401), (key.text, 200)):
        headers = {"Authorization": f"Bearer {text}"}
        assert client.get("/v1/users/42", headers=headers).status_code == status


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


def test_expired_key_is_refused(connect: Connect, clock: Clock) -> None:
    client = connect()
    clock.s = 86_401.0
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
    client = connect(None)
    key_id = api.add_key(Role.READER).stored.key_id
    statuses = [
        client.get(
            "/v1/users/42", headers={"Authorization": f"Bearer lp_{key_id}_{number:064x}"}
        ).status_code
        for number in range(25)
    ]
    assert statuses[0] == 401 and "api_key" in api.session.reads  # it was asked
    assert statuses[-1] == 429


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
    first, second = (new_key("shop", Role.READER, "anna", NOW_MS, 60) for _ in range(2))
    assert first.text != second.text
    key_id, secret = parse_key(first.text)
    assert key_id == first.stored.key_id
    assert secret not in str(first.stored)
    assert first.stored.accepts(secret, NOW_MS)
    assert not first.stored.accepts(secret, NOW_MS + 60_000)


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "a\n", "-a"])
def test_bad_key_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="key name"):
        new_key(name, Role.READER, "anna", NOW_MS, 60)
