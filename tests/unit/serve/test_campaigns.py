"""Campaigns over HTTP."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from liveprofile.units import DAY_MS
from serve.keys import Role
from tests.support.memory.api import NOW_MS, MemoryApi
from tests.unit.serve.test_alerts import every_item

Connect = Callable[..., TestClient]
PATH = "/v1/campaigns/spring"
SHARE = {"control_share": 0.6}
BODY = SHARE | {"segments": ["loyal"], "when": "churn < 0.9", "cost": 0.5, "excluded": ["7", "8"]}


def test_plan_is_stored_once_and_audited(connect: Connect, api: MemoryApi) -> None:
    client = connect(Role.ANALYST)
    planned = client.put(PATH, json=BODY).json()
    assert (planned["treatment"], planned["control"], planned["cost"]) == (1, 1, 0.5)
    assert (planned["start_ms"], planned["left_out"]) == (NOW_MS, {"open fraud case": 1})
    again = client.put(PATH, json=BODY)
    assert (again.status_code, again.json()["type"].rpartition(":")[2]) == (409, "conflict")
    [listed] = client.get("/v1/campaigns").json()["items"]
    assert listed == client.get(PATH).json()
    assert (listed["planned_by"], listed["summary"]) == ("anna", planned)
    # Who is excluded is no part of what is stored.
    assert listed["requested"]["excluded"] == 2
    assert [entry.outcome for entry in api.audit] == ["done", "refused"]


def test_dry_run_stores_nothing(connect: Connect, api: MemoryApi) -> None:
    client = connect(Role.ANALYST)
    assert client.put(f"{PATH}?dry_run=true", json={}).json()["treatment"] == 2
    assert (api.session.rows("campaign_plan"), api.audit) == ([], [])
    assert client.get(PATH).json()["type"].endswith("unknown-campaign")


def test_users_of_a_plan_come_page_by_page(connect: Connect) -> None:
    client = connect(Role.ANALYST)
    client.put(PATH, json=SHARE).raise_for_status()
    targets = every_item(client, f"{PATH}/targets")
    assert [(each["user_id"], each["group"]) for each in targets] == [
        ("a b%2F?&", "treatment"),
        ("Zoë/ü", "control"),
    ]
    for cursor in ("WzYzXQ", "Wy0yXQ"):  # [63], [-2]
        answer = client.get(f"{PATH}/targets", params={"cursor": cursor})
        assert answer.status_code == 400


def test_report_compares_the_groups(connect: Connect) -> None:
    client = connect(Role.ANALYST)
    client.put(PATH, json=SHARE).raise_for_status()
    report = client.get(f"{PATH}/report", params={"days": 14}).json()
    assert (report["has_control"], report["end_ms"]) == (True, NOW_MS + 14 * DAY_MS)
    assert set(report["groups"]) == {"all", "loyal", "new"}
    low, high = (report["groups"]["all"]["rate_difference"][name] for name in ("low", "high"))
    assert low < 0 < high


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"when": "chrn < 1"}, "when, character 1: unknown name chrn"),
        ({"control_share": 1.0}, "control_share"),
        ({"cap": {"contacts": 2}}, "days"),
        ({"segment": "loyal"}, "segment"),
    ],
)
def test_bad_request_is_a_422_problem(connect: Connect, body: dict, message: str) -> None:
    answer = connect(Role.ANALYST).put(PATH, json=body)
    assert answer.status_code == 422
    assert message in answer.json()["detail"]


def test_reader_may_not_plan(connect: Connect) -> None:
    assert connect(Role.READER).put(PATH, json={}).status_code == 403
