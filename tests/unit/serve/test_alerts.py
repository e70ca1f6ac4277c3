"""Alerts, cases, campaigns, consents and erasures over HTTP."""

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest
from httpx2 import Response

from liveprofile.privacy.erasures import ErasureTable
from liveprofile.pseudonym import user_pseudonym
from liveprofile.units import DAY_MS
from serve.api_models import UserConsents, UserErasure
from serve.keys import ADMIN, ANALYST, READER, Scope
from services.campaigns import campaigns
from tests.support.event_loop import on_loop
from tests.support.memory.api import NOW_MS, MemoryApi
from tests.support.rows.api_rows import USERS
from tests.unit.serve.conftest import Clock, Connect, every_item, kind_of

OFFICER = frozenset({Scope.PRIVACY})
FLAG = f"{0:032x}"


def test_alerts_of_all_users_and_of_one_come_page_by_page(connect: Connect) -> None:
    client = connect()
    everybody = every_item(client, "/v1/alerts", limit=3)
    assert [(item["user_id"], item["rule_id"]) for item in everybody] == sorted(
        (USERS[number % 2], f"rule{number:03d}") for number in range(8)
    )
    own = every_item(client, "/v1/alerts", limit=1, user_id="42")
    assert own == [item for item in everybody if item["user_id"] == "42"]
    assert every_item(client, "/v1/alerts", since="2017-11-26T01:05:01Z") == []


@on_loop
async def test_days_with_alerts_are_read_once_for_all_who_wait(api: MemoryApi) -> None:
    api.clear("risk_flag_by_day")
    api.session.delay_s = 0.1
    store = api.store()
    await asyncio.gather(*(store.alerts(None, 0, None, 50) for _ in range(20)))
    assert api.session.reads.count("risk_flag_by_day") <= 2


def test_alerts_of_all_users_count_by_their_number(connect: Connect) -> None:
    client = connect(max_requests_per_s=30)
    own, every = "/v1/alerts?user_id=42&limit=200", "/v1/alerts?limit=200"
    statuses = [client.get(path).status_code for path in (own, every, every, own)]
    assert statuses == [200, 200, 429, 200]


def test_alerts_by_state(connect: Connect) -> None:
    client = connect(ANALYST)
    client.put(f"/v1/alerts/{FLAG}/state", json={"state": "acknowledged"}).raise_for_status()
    taken = every_item(client, "/v1/alerts", limit=2, state="acknowledged")
    assert [(item["flag_id"], item["by"]) for item in taken] == [(FLAG, "anna")]
    assert len(every_item(client, "/v1/alerts", limit=2, state="open")) == 7


def test_change_of_a_state_is_stored_and_audited(connect: Connect, api: MemoryApi) -> None:
    client = connect(ANALYST, "otto")
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
    again = client.put(f"/v1/alerts/{FLAG}/state", json={"state": "acknowledged"})
    assert (again.status_code, kind_of(again)) == (409, "conflict")
    assert client.put("/v1/alerts/x/state", json=body).status_code == 404
    trail = connect(ADMIN).get("/v1/audit", params={"day": "2017-11-26"}).json()["items"]
    assert ("alert.state", "done", NOW_MS, "otto") in [
        (each["action"], each["outcome"], each["at_ms"], each["name"]) for each in trail
    ]


def test_snooze_is_set_and_ended(connect: Connect, api: MemoryApi) -> None:
    client = connect(ANALYST)
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


def test_cases_come_page_by_page(connect: Connect) -> None:
    client = connect()
    cases = every_item(client, "/v1/cases", limit=2)
    assert [case["number"] for case in cases] == [3, 2, 1]
    assert [case["number"] for case in every_item(client, "/v1/cases", open=False)] == [1]
    assert every_item(client, "/v1/cases", user_id="nobody") == []


@pytest.mark.parametrize(
    ("method", "path", "body", "scope"),
    [
        ("PUT", f"/v1/alerts/{FLAG}/state", {"state": "closed"}, Scope.RISK_WRITE),
        ("PUT", f"/v1/alerts/{FLAG}/label", {"label": "fraud"}, Scope.RISK_WRITE),
        ("PUT", "/v1/users/42/snoozes/*", {"for_s": 60}, Scope.RISK_WRITE),
        ("DELETE", "/v1/users/42/snoozes/*", None, Scope.RISK_WRITE),
        ("GET", "/v1/audit?day=2017-11-26", None, Scope.AUDIT),
        *(
            ("GET", f"/v1/{path}", None, Scope.RISK)
            for path in (f"alerts/{FLAG}", "alerts", "cases", "users/42/flags", "users/42/scores")
        ),
        *(
            ("GET", f"/v1/users/42{part}", None, Scope.PROFILES)
            for part in ("", "?embedding=true", "/deltas", "/segments", "/similar", "/attributes")
        ),
        ("POST", "/v1/users:batchGet", {"user_ids": ["42"]}, Scope.LISTS),
        ("GET", "/v1/segments/loyal/members", None, Scope.LISTS),
        ("GET", "/v1/campaigns/spring/targets", None, Scope.LISTS),
        ("GET", "/v1/segments/loyal/sizes", None, Scope.SEGMENTS),
        ("GET", "/v1/segments", None, Scope.SEGMENTS),
        ("GET", "/v1/campaigns", None, Scope.CAMPAIGNS),
        ("GET", "/v1/trends", None, Scope.TRENDS),
        ("GET", "/metrics", None, Scope.OPERATIONS),
        ("PUT", "/v1/campaigns/spring", {}, Scope.CAMPAIGNS_WRITE),
        ("GET", "/v1/rules", None, Scope.RULES),
        ("PUT", "/v1/rules", {"rules": []}, Scope.RULES_WRITE),
        ("PUT", "/v1/segments", {"segments": []}, Scope.SEGMENTS_WRITE),
        ("POST", "/v1/segments:preview", {"segments": []}, Scope.SEGMENTS_WRITE),
        ("GET", "/v1/users/42/consents", None, Scope.PRIVACY),
        ("PUT", "/v1/users/42/consents/risk", {"granted": True}, Scope.PRIVACY),
        ("GET", "/v1/users/42/erasure", None, Scope.PRIVACY),
        ("PUT", "/v1/users/42/erasure", {}, Scope.PRIVACY),
    ],
)
def test_each_route_needs_its_scope_and_no_other(
    connect: Connect,
    api: MemoryApi,
    method: str,
    path: str,
    body: dict[str, Any] | None,
    scope: Scope,
) -> None:
    others = connect(frozenset(Scope) - {scope}).request(method, path, json=body)
    assert (others.status_code, kind_of(others)) == (403, "forbidden")
    assert f"this needs the scope {scope}, the key has" in others.json()["detail"]
    assert connect(frozenset({scope})).request(method, path, json=body).status_code != 403
    anonymous = connect(None, authentication="none").request(method, path, json=body)
    assert (anonymous.status_code == 403) is (scope not in READER)
    assert "anonymous" not in {entry.name for entry in api.audit}


PATH = "/v1/campaigns/spring"
SHARE = {"control_share": 0.6}
BODY = SHARE | {"segments": ["loyal"], "when": "churn < 0.9", "cost": 0.5, "excluded": ["7", "8"]}


def test_plan_is_stored_once_and_audited(connect: Connect, api: MemoryApi) -> None:
    client = connect(ANALYST)
    planned = client.put(PATH, json=BODY).json()
    assert (planned["treatment"], planned["control"], planned["cost"]) == (1, 1, 0.5)
    assert (planned["start_ms"], planned["left_out"]) == (NOW_MS, {"open fraud case": 1})
    again = client.put(PATH, json=BODY)
    assert (again.status_code, kind_of(again)) == (409, "conflict")
    [listed] = client.get("/v1/campaigns").json()["items"]
    assert listed == client.get(PATH).json()
    assert (listed["planned_by"], listed["summary"]) == ("anna", planned)
    # Who is excluded is no part of what is stored.
    assert listed["requested"]["excluded"] == 2
    assert [entry.outcome for entry in api.audit] == ["done", "refused"]


def test_users_of_a_plan_come_page_by_page(connect: Connect) -> None:
    client = connect(ANALYST)
    client.put(PATH, json=SHARE).raise_for_status()
    targets = every_item(client, f"{PATH}/targets")
    assert [(each["user_id"], each["group"]) for each in targets] == [
        ("a b%2F?&", "treatment"),
        ("Zoë/ü", "control"),
    ]
    for cursor in ("WzYzXQ", "Wy0yXQ"):  # [63], [-2]
        answer = client.get(f"{PATH}/targets", params={"cursor": cursor})
        assert answer.status_code == 400


def test_erased_users_are_not_planned_sent_or_listed(
    connect: Connect, api: MemoryApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, users = connect(ADMIN), f"{PATH}/targets"
    client.put(PATH, json=SHARE).raise_for_status()
    # The plan was stored after the erasure, with a profile from before it.
    erased = f"/v1/users/{quote('a b%2F?&', safe='')}/erasure"
    client.put(erased, json={"before_ms": NOW_MS - 1}).raise_for_status()
    assert [each["user_id"] for each in every_item(client, users)] == ["Zoë/ü"]
    left_out = {"erased": 1, "no_consent": 0, "frequency_cap": 0}
    assert campaigns.send(api.session, api.settings, "spring", "targets") == (0, left_out)
    assert client.put("/v1/campaigns/later", json=SHARE).json()["treatment"] == 0
    tables = iter((ErasureTable(), campaigns.read_erasures(api.settings)))
    monkeypatch.setattr(campaigns, "read_erasures", lambda _: next(tables))
    client.put("/v1/campaigns/meanwhile", json=SHARE).raise_for_status()
    assert {row["user_id"] for row in api.session.rows("campaign_target")} == {"Zoë/ü"}


def test_report_compares_the_groups(connect: Connect) -> None:
    client = connect(ANALYST)
    client.put(PATH, json=SHARE).raise_for_status()
    report = client.get(f"{PATH}/report", params={"days": 14}).json()
    assert (report["has_control"], report["end_ms"]) == (True, NOW_MS + 14 * DAY_MS)
    assert set(report["groups"]) == {"all", "loyal", "new"}
    low, high = (report["groups"]["all"]["rate_difference"][name] for name in ("low", "high"))
    assert low < 0 < high


SNOOZES = "/v1/users/42/snoozes/*"


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (PATH, {"when": "chrn < 1"}, "when, character 1: unknown name chrn"),
        (PATH, {"control_share": 1.0}, "control_share"),
        (PATH, {"cap": {"contacts": 2}}, "days"),
        (PATH, {"segment": "loyal"}, "segment"),
        (SNOOZES, {"for_s": 1}, "for_s"),
        (SNOOZES, {"for_s": 366 * 86_400}, "for_s"),
        (SNOOZES, {"for_s": 60, "until": 1}, "until"),
        ("/v1/users/a/snoozes/b%20c", {"for_s": 60}, "without spaces"),
        *((SNOOZES, body, "") for body in ({}, [], "x")),
        ("/v1/segments", {"segments": [{"id": "\ud800"}]}, "body: "),
    ],
)
def test_bad_body_is_a_422_problem(connect: Connect, path: str, body: Any, message: str) -> None:
    content, headers = json.dumps(body), {"Content-Type": "application/json"}
    answer = connect(ANALYST).put(path, content=content, headers=headers)
    assert answer.status_code == 422
    assert message in answer.json()["detail"]


LATER_MS = NOW_MS + 1_000


def test_consents_are_changed_shown_and_audited(connect: Connect, api: MemoryApi) -> None:
    client = connect(OFFICER, "otto")
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


def test_an_erasure_is_requested_once_and_tracked(connect: Connect, api: MemoryApi) -> None:
    client = connect(OFFICER, "otto")
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
    answer = connect(OFFICER).put(f"/v1/users/42/{path}", json=body)
    assert answer.status_code == status, answer.text
    assert not api.audit and not any(api.kafka.records.values())


def test_users_listed_by_a_key_have_a_daily_budget_over_all_servers(
    connect: Connect, clock: Clock, api: MemoryApi
) -> None:
    key = api.add_key(frozenset({Scope.LISTS, Scope.AUDIT}), "crm").text
    headers = {"Authorization": f"Bearer {key}"}
    servers = [connect(None, max_listed_users_per_day=5) for _ in range(2)]

    def get(server: int, *users: str) -> Response:
        path, body = "/v1/users:batchGet", {"user_ids": list(users)}
        return servers[server].post(path, json=body, headers=headers)

    assert get(0, "1", "2", "2").status_code == 200
    refused = get(1, "3", "4", "5", "6")
    assert (refused.status_code, kind_of(refused)) == (429, "budget-spent")
    assert 0 < int(refused.headers["retry-after"]) < 86_400
    clock.s = 3_600.0
    assert get(1, "3", "4").status_code == 200
    assert [get(server, "5").status_code for server in (0, 1, 0)] == [200, 429, 429]
    members = servers[0].get("/v1/segments/loyal/members", headers=headers)
    assert kind_of(members) == "budget-spent"
    trail = servers[0].get("/v1/audit?day=2017-11-26", headers=headers).json()["items"]
    listed = sorted((each["name"], each["target"], each["after"]["users"]) for each in trail)
    assert listed == [("crm", "/v1/users:batchGet", users) for users in (1, 2, 2)]
    clock.s = 86_400.0 - 60.0
    assert get(0, "6").status_code == 200
