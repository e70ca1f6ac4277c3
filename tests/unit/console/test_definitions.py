"""Rules and segments in the console: seeing, checking, comparing, applying and proposing them."""

import re
from html import unescape

import pytest
from starlette.testclient import TestClient

from console.routes.rules_and_segments import FaultyTextError, check, to_toml
from liveprofile.rules.rules import read_rules
from liveprofile.segments.segments import read_segments
from liveprofile.settings import load
from serve.keys import ADMIN, ANALYST
from services.rule_proposals import ProposalState
from tests.support.memory.api import MemoryApi
from tests.support.paths import ROOT
from tests.unit.console.conftest import FETCH, SAME_ORIGIN, Browse

RULES, SEGMENTS = "/definitions/rules", "/definitions/segments"
RICH = """
[[segments]]
id = "rich"
when = "amount > 1000"
owner = "sales"
description = "spends much"
"""


def editor(page: str) -> dict[str, str]:
    """The fields of the form."""
    text = re.search(r"<textarea[^>]*>\n?(.*?)</textarea>", page, re.DOTALL)[1]
    return {"text": unescape(text), "tag": re.search(r'name="tag" value="([^"]*)"', page)[1]}


@pytest.mark.parametrize("kind", ["rules", "segments"])
def test_text_to_edit_is_read_back_unchanged(kind: str) -> None:
    read = read_rules if kind == "rules" else read_segments
    shipped = list(getattr(read(ROOT / f"{kind}.toml"), kind))
    odd = 'a "quoted" \\n back\\slash\nline\ttab \x7f é {value}'
    field = "message" if kind == "rules" else "description"
    shipped[0] = shipped[0].model_copy(update={field: odd})
    assert check(kind, to_toml(kind, shipped), load()) == shipped


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[[rules", "TOML: "),
        ("rules = 3", "must be tables [[rules]]"),
        ("rules = [3]", "must be tables [[rules]]"),
        ("", "no table [[rules]]"),
        ('[[rules]]\nid = "a"', "a: "),
    ],
)
def test_faults_of_a_text_are_told(text: str, fault: str) -> None:
    with pytest.raises(FaultyTextError) as caught:
        check("rules", text, load())
    assert fault in caught.value.problems[0]


def test_faulty_condition_names_its_rule_and_column(browse: Browse) -> None:
    browser = browse()
    fields = editor(browser.get(RULES).text)
    fields["text"] = re.sub('when = "', 'when = "nonsense > 1 or ', fields["text"], count=1)
    answer = browser.post(f"{RULES}/check", data=fields, headers=FETCH)
    assert answer.status_code == 200
    assert re.search(r"<li>\w+: when, column 1: .*nonsense", answer.text)


def test_segments_have_sizes_and_members(browse: Browse) -> None:
    browser = browse()
    assert re.search(r">loyal</a></th>\s*<td.*?</td>.*?4 of 4", browser.get(SEGMENTS).text, re.S)
    assert "anna&lt;b&gt;" in browser.get(f"{SEGMENTS}/members?segment=loyal").text
    assert "The segment has no members" in browser.get(f"{SEGMENTS}/members?segment=none").text


def test_comparing_writes_nothing(browse: Browse, api: MemoryApi) -> None:
    browser = browse()
    fields = editor(browser.get(SEGMENTS).text)
    fields["text"] += RICH
    answer = browser.post(f"{SEGMENTS}/compare", data=fields, headers=FETCH)
    assert "added rich, version 1" in answer.text
    assert api.audit == []


def test_analyst_applies_segments_and_not_rules(browse: Browse, api: MemoryApi) -> None:
    browser = browse(ANALYST, "otto")
    fields = editor(browser.get(SEGMENTS).text)
    fields["text"] += RICH
    page = browser.post(f"{SEGMENTS}/apply", data=fields, headers=SAME_ORIGIN)
    assert page.url.path == SEGMENTS
    assert "rich" in page.text
    [entry] = api.audit
    assert (entry.name, entry.action, entry.outcome) == ("otto", "segments.put", "done")
    rules = editor(browser.get(RULES).text)
    assert browser.post(f"{RULES}/apply", data=rules, headers=SAME_ORIGIN).status_code == 403


def test_second_editor_is_refused(browse: Browse) -> None:
    admin = browse(ADMIN, second_approver=False)
    first, second = (editor(admin.get(RULES).text) for _ in range(2))
    second["text"] = second["text"].replace("score >= threshold", "score >= 0.5")
    assert admin.post(f"{RULES}/apply", data=first, headers=SAME_ORIGIN).url.path == RULES
    answer = admin.post(f"{RULES}/apply", data=second, headers=FETCH)
    assert answer.status_code == 412
    del second["tag"]
    assert admin.post(f"{RULES}/apply", data=second, headers=FETCH).status_code == 422
    second["text"] = "nothing"
    assert admin.post(f"{RULES}/apply", data=second, headers=FETCH).status_code == 422


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
    analyst, admin = browse(ANALYST, "anna"), browse(ADMIN, "olga")
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
    admin, analyst = browse(ADMIN, "olga"), browse(ANALYST, "anna")
    path = propose(admin)
    assert "Approve and apply" not in admin.get(path).text
    # Another key of the same person is no other person.
    for browser in (admin, browse(ADMIN, "olga"), analyst):
        assert decide(browser, path, "approve") == 403
    assert LOWER[1] not in in_force(admin)
    fields = editor(admin.get(RULES).text)
    assert admin.post(f"{RULES}/apply", data=fields, headers=SAME_ORIGIN).status_code == 403


def test_proposal_is_refused_or_withdrawn_once(browse: Browse, api: MemoryApi) -> None:
    anna, mara = browse(ANALYST, "anna"), browse(ANALYST, "mara")
    admin = browse(ADMIN, "olga")
    path = propose(anna)
    assert "Withdraw" in anna.get(path).text
    assert decide(mara, path, "refuse") == 403
    assert decide(anna, path, "refuse") == 200
    assert decide(admin, path, "approve") == 409
    [found] = api.session.rows("rule_proposal")
    assert (found["state"], found["decided_by"]) == (ProposalState.REFUSED, "anna")
    assert decide(admin, path, "maybe") == 422


def test_proposal_on_changed_rules_is_outdated(browse: Browse, api: MemoryApi) -> None:
    anna, admin = browse(ANALYST, "anna"), browse(ADMIN, "olga")
    first = propose(anna)
    other = editor(anna.get(RULES).text)["text"].replace(LOWER[0], "score >= 0.5")
    second = propose(anna, text=other)
    assert decide(admin, first, "approve") == 200
    assert "have changed since" in admin.get(second).text
    assert decide(admin, second, "approve") == 412
    states = [row["state"] for row in api.session.rows("rule_proposal")]
    assert sorted(states) == ["applied", "outdated"]


@pytest.mark.parametrize("changed", [{"text": "[[rules"}, {"tag": ""}, {"note": "x" * 10_000}])
def test_faulty_proposal_is_not_stored(
    browse: Browse, api: MemoryApi, changed: dict[str, str]
) -> None:
    analyst = browse(ANALYST)
    fields = editor(analyst.get(RULES).text) | changed
    answer = analyst.post(f"{RULES}/propose", data=fields, headers=SAME_ORIGIN)
    assert answer.status_code == 422
    assert api.session.rows("rule_proposal") == []
    assert browse().post(f"{RULES}/propose", data=fields, headers=SAME_ORIGIN).status_code == 403
