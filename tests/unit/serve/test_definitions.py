"""Rules and segments over HTTP: editors see what is in force, and do not overwrite each other."""

from pathlib import Path
from typing import Any

import pytest

from serve.keys import ADMIN, ANALYST
from tests.support.memory.api import NOW_MS, MemoryApi
from tests.support.rows.rule_examples import SHIPPED_RULES, rule
from tests.support.rows.statements import stated
from tests.unit.serve.conftest import Connect, kind_of

SEGMENT = {"id": "big", "when": "amount > 100", "owner": "anna", "description": "Big spenders"}


def rule_table(**changes: Any) -> dict[str, Any]:
    return rule(**changes).model_dump(mode="json")


def test_definitions_of_the_file_until_they_are_changed(connect: Connect) -> None:
    client = connect(ADMIN)
    answer = client.get("/v1/rules")
    rules = answer.json()
    assert rules["version"] == SHIPPED_RULES.version
    assert len(rules["rules"]) == len(SHIPPED_RULES.rules)
    assert answer.headers["etag"] == f'"{rules["tag"]}"'
    changed = client.put(
        "/v1/rules", json={"rules": [rule_table()]}, headers={"If-Match": answer.headers["etag"]}
    )
    assert changed.json()["changes"] == [{"id": "many", "what": "added", "version": 1}]
    again = client.get("/v1/rules")
    assert [each["id"] for each in again.json()["rules"]] == ["many"]
    assert again.headers["etag"] == changed.headers["etag"]
    known = client.get("/v1/rules", headers={"If-None-Match": again.headers["etag"]})
    assert known.status_code == 304


def test_second_editor_is_refused_with_412(connect: Connect, api: MemoryApi) -> None:
    client = connect(ANALYST)
    seen = {"If-Match": client.get("/v1/segments").headers["etag"]}
    client.put("/v1/segments", json={"segments": [SEGMENT]}, headers=seen).raise_for_status()
    other = SEGMENT | {"id": "other"}
    late = client.put("/v1/segments", json={"segments": [other]}, headers=seen)
    assert (late.status_code, kind_of(late)) == (412, "changed")
    assert [each["id"] for each in client.get("/v1/segments").json()["segments"]] == ["big"]
    forced = client.put("/v1/segments", json={"segments": [other]}, headers={"If-Match": "*"})
    assert [each["what"] for each in forced.json()["changes"]] == ["added", "removed"]
    assert [entry.action for entry in api.audit] == ["segments.put"] * 3
    assert [entry.outcome for entry in api.audit] == ["done", "refused", "done"]
    assert api.audit[2].before == {
        "other": None,
        "big": SEGMENT | {"version": 1, "state": "ACTIVE"},
    }
    assert api.audit[2].after["big"] is None


def test_change_without_if_match_is_refused(connect: Connect) -> None:
    answer = connect(ADMIN).put("/v1/rules", json={"rules": []})
    assert (answer.status_code, kind_of(answer)) == (428, "no-precondition")


def test_dry_run_writes_nothing(connect: Connect, api: MemoryApi) -> None:
    client = connect(ADMIN)
    answer = client.put(
        "/v1/rules?dry_run=true", json={"rules": [rule_table()]}, headers={"If-Match": "*"}
    ).json()
    assert (answer["dry_run"], answer["changes"][0]["what"]) == (True, "added")
    assert not api.kafka.records["risk-rules"] and api.audit == []


def test_each_fault_is_named(connect: Connect, api: MemoryApi) -> None:
    bad = [rule_table(id="one") | {"when": "amout > 3"}, {"id": "two"}, rule_table(id="three")]
    answer = connect(ADMIN).put(
        "/v1/rules", json={"rules": [*bad, bad[2]]}, headers={"If-Match": "*"}
    )
    problem = answer.json()
    assert (answer.status_code, kind_of(answer)) == (422, "invalid-definitions")
    faults = {each["field"]: each["message"] for each in problem["errors"]}
    assert faults["rule one: when"] == "column 1: unknown name amout; amount?"
    assert faults["rule two: scope"] == "Field required"
    assert faults["rule three: id"] == "another rule has the same id"
    assert api.audit == []


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ('attribute("age_bnd") == "65+"', "unknown attribute age_bnd; age_band?"),
        (
            'attribute("age_band") > 64',
            "attribute age_band is of type enum, but is used as a number",
        ),
    ],
)
def test_condition_with_a_wrong_attribute_is_refused(
    connect: Connect, api: MemoryApi, when: str, message: str
) -> None:
    client = connect(ADMIN)
    bodies = {
        "rules": [rule_table(message="Look at this") | {"when": when}],
        "segments": [SEGMENT | {"when": when}],
    }
    for kind, definitions in bodies.items():
        body = {kind: definitions}
        answer = client.put(f"/v1/{kind}", json=body, headers={"If-Match": "*"})
        name = f"{kind[:-1]} {definitions[0]['id']}: when"
        assert answer.json()["errors"] == [{"field": name, "message": message}]
        assert answer.status_code == 422
    assert client.post("/v1/segments:preview", json=body).status_code == 422
    assert api.audit == [] and not api.kafka.records["risk-rules"]
    right = {"segments": [SEGMENT | {"when": 'attribute("age_band") == "65+"'}]}
    assert client.put("/v1/segments", json=right, headers={"If-Match": "*"}).status_code == 200


def test_server_without_its_file_of_attributes_blames_itself(
    connect: Connect, api: MemoryApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    api.settings = api.settings.model_copy(update={"attributes": tmp_path / "none.toml"})
    client = connect(ANALYST)
    body = {"segments": [SEGMENT]}
    assert client.put("/v1/segments", json=body, headers={"If-Match": "*"}).status_code == 200
    body = {"segments": [SEGMENT | {"when": 'attribute("age_band") == "65+"'}]}
    with caplog.at_level("ERROR", logger="services.definitions"):
        answer = client.put("/v1/segments", json=body, headers={"If-Match": "*"})
    assert answer.status_code == 503
    assert "none.toml" in caplog.text and "none.toml" not in answer.text


def test_preview_says_who_enters_and_leaves(connect: Connect, api: MemoryApi) -> None:
    client = connect(ANALYST)
    body = {"segments": [SEGMENT]}
    preview = client.post("/v1/segments:preview?at=2026-01-02T00:00:00Z", json=body).json()
    assert (preview["at_ms"], preview["users"]) == (1_767_312_000_000, 3)
    assert "big" in [each["segment_id"] for each in preview["segments"]]
    assert client.post("/v1/segments:preview", json=body).json()["at_ms"] == NOW_MS
    bad = {"segments": [SEGMENT | {"when": "x > 1"}]}
    assert client.post("/v1/segments:preview", json=bad).status_code == 422
    assert api.audit == []


def test_preview_knows_what_others_state_about_users(connect: Connect, api: MemoryApi) -> None:
    api.put(stated("42", NOW_MS, purpose="marketing", age_band="65+"))
    body = {"segments": [SEGMENT | {"id": "seniors", "when": 'attribute("age_band") == "65+"'}]}
    preview = connect(ANALYST).post("/v1/segments:preview", json=body).json()
    [found] = [each for each in preview["segments"] if each["segment_id"] == "seniors"]
    assert (found["enter"], found["entering"]) == (1, ["42"])


def test_scan_beyond_its_limit_is_refused(connect: Connect) -> None:
    answer = connect(ANALYST, store={"max_scan_rows": 1}).post(
        "/v1/segments:preview", json={"segments": [SEGMENT]}
    )
    assert (answer.status_code, kind_of(answer)) == (422, "too-many-rows")
