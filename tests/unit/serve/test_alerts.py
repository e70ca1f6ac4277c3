"""Alerts, labels, snoozes and cases over HTTP, and the audit trail of writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from serve.keys import Role
from tests.support.memory.api import NOW_MS, MemoryApi
from tests.support.rows.api_rows import USERS

Connect = Callable[..., TestClient]
FLAG = f"{0:032x}"
EVENT_FLAG = f"{4:032x}"


def every_item(client: TestClient, path: str, **params: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    while True:
        page = client.get(path, params=params).raise_for_status().json()
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        params["cursor"] = page["next_cursor"]


def test_alerts_of_all_users_and_of_one_come_page_by_page(connect: Connect) -> None:
    client = connect()
    everybody = every_item(client, "/v1/alerts", limit=3)
    assert [(item["user_id"], item["rule_id"]) for item in everybody] == sorted(
        (USERS[number % 2], f"rule{number:03d}") for number in range(8)
    )
    own = every_item(client, "/v1/alerts", limit=1, user_id="42")
    assert own == [item for item in everybody if item["user_id"] == "42"]
    assert every_item(client, "/v1/alerts", since="2017-11-26T01:05:01Z") == []


def test_alerts_by_state(connect: Connect) -> None:
    client = connect(Role.ANALYST)
    client.put(f"/v1/alerts/{FLAG}/state", json={"state": "acknowledged"}).raise_for_status()
    taken = every_item(client, "/v1/alerts", limit=2, state="acknowledged")
    assert [(item["flag_id"], item["by"]) for item in taken] == [(FLAG, "anna")]
    assert len(every_item(client, "/v1/alerts", limit=2, state="open")) == 7


def test_change_of_a_state_is_stored_and_audited(connect: Connect, api: MemoryApi) -> None:
    client = connect(Role.ANALYST, "otto")
    body = {"state": "closed", "note": "called the customer"}
    headers = {"X-Request-Id": "r7"}
    answer = client.put(f"/v1/alerts/{FLAG}/state", json=body, headers=headers).json()
    assert (answer["state"], answer["by"], answer["note"]) == ("closed", "otto", body["note"])
    details = client.get(f"/v1/alerts/{FLAG}").json()
    assert [change["to_state"] for change in details["history"]] == ["closed"]
    [entry] = api.audit
    assert (entry.name, entry.action, entry.target) == ("otto", "alert.state", FLAG)
    assert (entry.request_id, entry.requested, entry.outcome) == ("r7", body, "done")
    assert (entry.before["state"], entry.after["state"]) == ("open", "closed")


def test_change_that_the_state_forbids_is_a_409_problem(connect: Connect) -> None:
    client = connect(Role.ANALYST)
    client.put(f"/v1/alerts/{FLAG}/state", json={"state": "closed"}).raise_for_status()
    answer = client.put(f"/v1/alerts/{FLAG}/state", json={"state": "acknowledged"})
    assert answer.status_code == 409
    assert answer.json()["type"].endswith("conflict")


def test_label_says_whether_a_record_was_sent(connect: Connect) -> None:
    client = connect(Role.ANALYST)
    of_window = client.put(f"/v1/alerts/{FLAG}/label", json={"label": "fraud"}).json()
    assert (of_window["state"], of_window["labels_sent"]) == ("confirmed", 0)
    of_event = client.put(f"/v1/alerts/{EVENT_FLAG}/label", json={"label": "legitimate"}).json()
    assert (of_event["state"], of_event["labels_sent"]) == ("false_positive", 1)


def test_unknown_alert_is_a_404_problem(connect: Connect) -> None:
    client = connect(Role.ANALYST)
    assert client.get("/v1/alerts/x").status_code == 404
    assert client.put("/v1/alerts/x/state", json={"state": "closed"}).status_code == 404


def test_snooze_is_set_and_ended(connect: Connect, api: MemoryApi) -> None:
    client = connect(Role.ANALYST)
    path = "/v1/users/Zo%C3%AB%2F%C3%BC/snoozes"
    snooze = client.put(f"{path}/*", json={"for_s": 3_600}).json()
    assert snooze == {"rule_id": "*", "until_ms": NOW_MS + 3_600_000, "by": "anna", "note": ""}
    assert client.get(path).json()["items"] == [snooze]
    assert client.delete(f"{path}/*").status_code == 204
    assert client.get(path).json()["items"] == []
    assert [entry.action for entry in api.audit] == ["snooze.set", "snooze.end"]


def test_405_names_the_methods_of_all_routes_with_the_path(connect: Connect) -> None:
    answer = connect().post("/v1/users/42/snoozes/*")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, PUT")


@pytest.mark.parametrize(
    "body", [{"for_s": 1}, {"for_s": 366 * 86_400}, {}, {"for_s": 60, "until": 1}, [], "x"]
)
def test_bad_snooze_is_a_422_problem(connect: Connect, body: Any) -> None:
    answer = connect(Role.ANALYST).put("/v1/users/42/snoozes/*", json=body)
    assert answer.status_code == 422


def test_cases_come_page_by_page(connect: Connect) -> None:
    client = connect()
    cases = every_item(client, "/v1/cases", limit=2)
    assert [case["number"] for case in cases] == [3, 2, 1]
    assert [case["number"] for case in every_item(client, "/v1/cases", open=False)] == [1]
    assert every_item(client, "/v1/cases", user_id="nobody") == []


@pytest.mark.parametrize(
    ("method", "path", "body", "least"),
    [
        ("PUT", f"/v1/alerts/{FLAG}/state", {"state": "closed"}, Role.ANALYST),
        ("PUT", f"/v1/alerts/{FLAG}/label", {"label": "fraud"}, Role.ANALYST),
        ("PUT", "/v1/users/42/snoozes/*", {"for_s": 60}, Role.ANALYST),
        ("DELETE", "/v1/users/42/snoozes/*", None, Role.ANALYST),
        ("GET", "/v1/audit?day=2017-11-26", None, Role.ADMIN),
        ("GET", f"/v1/alerts/{FLAG}", None, Role.READER),
    ],
)
def test_each_role_may_do_what_it_includes(
    connect: Connect,
    api: MemoryApi,
    method: str,
    path: str,
    body: dict[str, Any] | None,
    least: Role,
) -> None:
    for role in Role:
        status = connect(role).request(method, path, json=body).status_code
        assert (status == 403) is not role.includes(least), role
    anonymous = connect(None, authentication="none").request(method, path, json=body)
    assert (anonymous.status_code == 403) is (least is not Role.READER)
    names = {entry.name for entry in api.audit}
    assert "anonymous" not in names


def test_admin_reads_the_audit_trail(connect: Connect) -> None:
    client = connect(Role.ADMIN)
    client.put(f"/v1/alerts/{FLAG}/state", json={"state": "closed"}).raise_for_status()
    [entry] = client.get("/v1/audit", params={"day": "2017-11-26"}).json()["items"]
    assert (entry["action"], entry["outcome"], entry["at_ms"]) == ("alert.state", "done", NOW_MS)
