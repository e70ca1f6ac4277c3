"""Consents and erasures over HTTP: roles, audit trail, repetition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from liveprofile.client.models import UserConsents, UserErasure
from liveprofile.pseudonym import user_pseudonym
from serve.keys import Role
from tests.support.memory.api import NOW_MS, MemoryApi

Connect = Callable[..., TestClient]
LATER_MS = NOW_MS + 1_000


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/users/42/consents", None),
        ("PUT", "/v1/users/42/consents/risk", {"granted": True}),
        ("GET", "/v1/users/42/erasure", None),
        ("PUT", "/v1/users/42/erasure", {}),
    ],
)
def test_only_keys_for_privacy_may_use_it(
    connect: Connect, method: str, path: str, body: dict[str, Any] | None
) -> None:
    for role in Role:
        status = connect(role).request(method, path, json=body).status_code
        assert (status == 403) is (role not in (Role.PRIVACY, Role.ADMIN)), role
    anonymous = connect(None, authentication="none").request(method, path, json=body)
    assert anonymous.status_code == 403


def test_the_role_reads_profiles_and_changes_no_alerts(connect: Connect) -> None:
    client = connect(Role.PRIVACY)
    assert client.get("/v1/users/42").status_code == 200
    assert client.put("/v1/users/42/snoozes/*", json={"for_s": 60}).status_code == 403
    assert client.get("/v1/audit?day=2017-11-26").status_code == 403


def test_consents_are_changed_shown_and_audited(connect: Connect, api: MemoryApi) -> None:
    client = connect(Role.PRIVACY, "otto")
    body = {"granted": False, "time_ms": NOW_MS - 5, "basis": "consent", "text_version": "2"}
    for _ in range(2):
        client.put("/v1/users/a%2Fb/consents/marketing", json=body).raise_for_status()
    found = UserConsents.model_validate(client.get("/v1/users/a%2Fb/consents").json())
    assert not found.purposes["marketing"].allowed and found.purposes["profiling"].allowed
    assert found.purposes["marketing"].since_ms == NOW_MS - 5
    assert found.purposes["profiling"].since_ms is None
    assert [(each.purpose, each.granted) for each in found.history] == [("marketing", False)]
    entry = api.audit[0]
    assert (entry.name, entry.action, entry.target) == ("otto", "consent.set", "a/b marketing")
    assert entry.after is not None and entry.after["granted"] is False


def test_a_consent_without_a_time_counts_from_now(connect: Connect) -> None:
    client = connect(Role.PRIVACY)
    answer = client.put("/v1/users/42/consents/risk", json={"granted": False})
    assert answer.json()["purposes"]["risk"]["since_ms"] == NOW_MS


def test_an_erasure_is_requested_once_and_tracked(connect: Connect, api: MemoryApi) -> None:
    client = connect(Role.PRIVACY, "otto")
    assert client.get("/v1/users/42/erasure").status_code == 404
    for _ in range(2):
        client.put("/v1/users/42/erasure", json={"before_ms": NOW_MS - 5}).raise_for_status()
    client.put("/v1/users/42/erasure", json={"before_ms": NOW_MS - 9}).raise_for_status()
    found = UserErasure.model_validate(client.get("/v1/users/42/erasure").json())
    assert (found.before_ms, found.done) == (NOW_MS - 5, False)
    places = {each.place: each for each in found.places}
    assert not places["tables"].done and places["topic behavior-events"].clear_ms is not None
    [entry] = api.audit
    assert (entry.action, entry.target) == ("user.erase", user_pseudonym("42"))
    assert client.put("/v1/users/42/erasure", json={}).json()["before_ms"] == NOW_MS


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("erasure", {"before_ms": LATER_MS}, 409),
        ("erasure", {"before_ms": 5}, 422),
        ("erasure", {"before": NOW_MS}, 422),
        ("consents/risk", {"granted": True, "time_ms": LATER_MS}, 409),
        ("consents/risk", {"granted": "yes"}, 422),
        ("consents/risk", {"granted": True, "basis": "x" * 257}, 422),
        ("consents/sales", {"granted": True}, 422),
    ],
)
def test_wrong_requests_change_nothing(
    connect: Connect, api: MemoryApi, path: str, body: dict[str, Any], status: int
) -> None:
    answer = connect(Role.PRIVACY).put(f"/v1/users/42/{path}", json=body)
    assert answer.status_code == status, answer.text
    assert not api.audit and not any(api.kafka.records.values())
