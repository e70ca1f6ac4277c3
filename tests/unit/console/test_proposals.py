"""A change of rules needs two people."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from liveprofile.rules.proposals import ProposalState
from serve.keys import Role
from tests.support.memory.api import MemoryApi
from tests.unit.console.conftest import SAME_ORIGIN
from tests.unit.console.test_definitions import FETCH, RULES, editor

Browse = Callable[..., TestClient]
LOWER = ("score >= threshold", "score >= 0.25")


def propose(browser: TestClient, **changed: str) -> str:
    """The path of the proposal's page."""
    fields = editor(browser.get(RULES).text) | {"note": "frauds were missed"}
    fields["text"] = fields["text"].replace(*LOWER)
    answer = browser.post(f"{RULES}/propose", data=fields | changed, headers=SAME_ORIGIN)
    assert answer.status_code == 200, answer.text
    return answer.url.path


def decide(browser: TestClient, path: str, action: str) -> int:
    return browser.post(path, data={"action": action}, headers=SAME_ORIGIN).status_code


def in_force(browser: TestClient) -> str:
    return editor(browser.get(RULES).text)["text"]


def test_rules_of_an_analyst_are_applied_by_an_admin(browse: Browse, api: MemoryApi) -> None:
    analyst, admin = browse(Role.ANALYST, "anna"), browse(Role.ADMIN, "olga")
    path = propose(analyst)
    page = analyst.get(path).text
    assert "+when = &#34;score &gt;= 0.25&#34;" in page
    assert "frauds were missed" in page
    assert "Approve and apply" not in page
    assert LOWER[1] not in in_force(admin)
    assert "anna" in admin.get(f"{RULES}/proposals", headers=FETCH).text
    assert "Approve and apply" in admin.get(path).text
    assert decide(admin, path, "approve") == 200
    assert LOWER[1] in in_force(admin)
    assert "Applied by olga" in analyst.get(path).text
    assert [(each.name, each.action) for each in api.audit] == [
        ("anna", "rules.propose"),
        ("olga", "rules.approve"),
    ]
    assert decide(admin, path, "approve") == 409
    assert decide(admin, path, "refuse") == 403


def test_nobody_approves_alone(browse: Browse) -> None:
    admin, analyst = browse(Role.ADMIN, "olga"), browse(Role.ANALYST, "anna")
    path = propose(admin)
    assert "Approve and apply" not in admin.get(path).text
    # Another key of the same person is no other person.
    for browser in (admin, browse(Role.ADMIN, "olga"), analyst):
        assert decide(browser, path, "approve") == 403
    assert LOWER[1] not in in_force(admin)
    fields = editor(admin.get(RULES).text)
    assert admin.post(f"{RULES}/apply", data=fields, headers=SAME_ORIGIN).status_code == 403


def test_proposal_is_refused_or_withdrawn_once(browse: Browse, api: MemoryApi) -> None:
    anna, mara = browse(Role.ANALYST, "anna"), browse(Role.ANALYST, "mara")
    admin = browse(Role.ADMIN, "olga")
    path = propose(anna)
    assert "Withdraw" in anna.get(path).text
    assert decide(mara, path, "refuse") == 403
    assert decide(anna, path, "refuse") == 200
    assert decide(admin, path, "approve") == 409
    [found] = api.session.rows("rule_proposal")
    assert (found["state"], found["decided_by"]) == (ProposalState.REFUSED, "anna")
    assert decide(admin, path, "maybe") == 422


def test_proposal_on_changed_rules_is_outdated(browse: Browse, api: MemoryApi) -> None:
    anna, admin = browse(Role.ANALYST, "anna"), browse(Role.ADMIN, "olga")
    first = propose(anna)
    other = editor(anna.get(RULES).text)["text"].replace(LOWER[0], "score >= 0.5")
    second = propose(anna, text=other)
    assert decide(admin, first, "approve") == 200
    assert "have changed since" in admin.get(second).text
    assert decide(admin, second, "approve") == 412
    states = [row["state"] for row in api.session.rows("rule_proposal")]
    assert sorted(states) == ["applied", "outdated"]


def test_single_person_applies_at_once(browse: Browse) -> None:
    admin = browse(Role.ADMIN, second_approver=False)
    page = admin.get(RULES).text
    assert "Propose" not in page
    fields = editor(page)
    fields["text"] = fields["text"].replace(*LOWER)
    answer = admin.post(f"{RULES}/apply", data=fields, headers=SAME_ORIGIN)
    assert LOWER[1] in editor(answer.text)["text"]


@pytest.mark.parametrize("changed", [{"text": "[[rules"}, {"tag": ""}, {"note": "x" * 10_000}])
def test_faulty_proposal_is_not_stored(
    browse: Browse, api: MemoryApi, changed: dict[str, str]
) -> None:
    analyst = browse(Role.ANALYST)
    fields = editor(analyst.get(RULES).text) | changed
    answer = analyst.post(f"{RULES}/propose", data=fields, headers=SAME_ORIGIN)
    assert answer.status_code == 422
    assert api.session.rows("rule_proposal") == []
    assert browse().post(f"{RULES}/propose", data=fields, headers=SAME_ORIGIN).status_code == 403


def test_unknown_proposal_is_a_404_page(browse: Browse) -> None:
    assert browse().get(f"{RULES}/proposals/nothing").status_code == 404
