"""Campaigns in the console: planning, users with reasons, and reports."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from console.rendering import render
from console.routes.campaigns import calculation, parse_plan, verdict
from liveprofile.campaigns.plan import Target
from liveprofile.campaigns.report import Outcome, Uplift, uplift
from liveprofile.client.analysis_models import CampaignRequest, FrequencyCap
from serve.keys import Role
from tests.support.memory.api import MemoryApi
from tests.unit.console.conftest import SAME_ORIGIN

Browse = Callable[..., TestClient]
FORM = {
    "name": "spring",
    "segments": "loyal, new",
    "when": "churn < 0.9",
    "control_share": "0.6",
    "cost": "0.25",
    "excluded": "a\r\n\r\nb",
}


def test_form_is_the_request_of_the_read_api() -> None:
    fields = FORM | {"contacts": "2", "days": "30", "start": "2017-11-26T01:05"}
    assert parse_plan(fields) == CampaignRequest(
        segments=["loyal", "new"],
        when="churn < 0.9",
        control_share=0.6,
        cost=0.25,
        excluded=["a", "b"],
        cap=FrequencyCap(contacts=2, days=30),
        start_ms=1_511_658_300_000,
    )
    assert parse_plan({}) == CampaignRequest()


def test_preview_stores_nothing_and_plan_does(browse: Browse, api: MemoryApi) -> None:
    refused = browse().post("/campaigns", data=FORM | {"action": "plan"}, headers=SAME_ORIGIN)
    assert refused.status_code == 403
    analyst = browse(Role.ANALYST, "mara")
    assert "No campaign is planned" in analyst.get("/campaigns").text
    preview = analyst.post("/campaigns", data=FORM | {"action": "preview"}, headers=SAME_ORIGIN)
    assert "Nothing is stored yet" in preview.text
    assert "<dt>left out, open fraud case</dt><dd>1</dd>" in preview.text
    assert 'value="churn &lt; 0.9"' in preview.text
    assert api.session.rows("campaign_plan") == []
    planned = analyst.post("/campaigns", data=FORM | {"action": "plan"}, headers=SAME_ORIGIN)
    assert planned.url.path == "/campaigns/spring"
    [entry] = api.audit
    assert (entry.name, entry.action, entry.target) == ("mara", "campaign.plan", "spring")
    assert entry.requested["excluded"] == 2
    again = analyst.post("/campaigns", data=FORM | {"action": "plan"}, headers=SAME_ORIGIN)
    assert again.status_code == 422
    assert "is planned already" in again.text
    assert "spring</a>" in analyst.get("/campaigns").text


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"when": "churn <"}, "when, character"),
        ({"name": "Spring!"}, "name"),
        ({"budget": "-3"}, "budget"),
        ({"cost": "much"}, "cost: Input should be a valid number"),
        ({"cost": "nan"}, "cost: Input should be"),
        ({"contacts": "-1"}, "cap.contacts: Input should be"),
        ({"start": "soon"}, "start: &#39;soon&#39; is not a time"),
    ],
)
def test_faulty_plan_is_told_and_its_fields_stay(
    browse: Browse, api: MemoryApi, changed: dict[str, str], told: str
) -> None:
    fields = FORM | changed | {"action": "plan"}
    answer = browse(Role.ANALYST).post("/campaigns", data=fields, headers=SAME_ORIGIN)
    assert answer.status_code == 422
    assert f"<li>{told}" in answer.text
    assert 'value="loyal, new"' in answer.text
    assert api.session.rows("campaign_plan") == []


def test_users_have_the_reason_for_their_place(browse: Browse) -> None:
    analyst = browse(Role.ANALYST)
    analyst.post("/campaigns", data=FORM | {"action": "plan"}, headers=SAME_ORIGIN)
    page = analyst.get("/campaigns/spring").text
    assert page.index(">Zoë/ü</a>") < page.index(">a b%2F?&amp;</a>")
    assert "expected spend 12.5 × 75 % response − 0.25 for the contact" in page
    assert "control: do not contact" in page
    assert "More users" not in page
    assert analyst.get("/campaigns/none").status_code == 404
    target = Target("42", "treatment", (), 0.25, 12.5, 9.0)
    with_margin = calculation(target, {"response": 0.1, "margin": 0.5})
    assert with_margin == "expected spend 12.5 × 10 % response × 50 % margin"


def test_report_compares_the_groups(browse: Browse) -> None:
    analyst = browse(Role.ANALYST)
    analyst.post("/campaigns", data=FORM | {"action": "plan"}, headers=SAME_ORIGIN)
    page = analyst.get("/campaigns/spring/report?days=14").text
    assert "No clear effect" in page
    assert '<td class="n">1 / 1</td>' in page
    assert analyst.get("/campaigns/spring/report?days=0").status_code == 422


def test_report_says_what_the_interval_allows() -> None:
    bought, nothing = Outcome(True, 10.0), Outcome(False, 0.0)
    clear = uplift([bought] * 90 + [nothing] * 10, [nothing] * 90 + [bought] * 10)
    results = {"all": clear, "loyal": clear, "new": clear}
    assert verdict(results).startswith("The purchase rate changed by 80 points (")
    page = report(results)
    assert ">90 % / 10 %<" in page and ">80 points (" in page
    assert "2 segments are compared" in page
    alone = {"all": uplift([bought], [])}
    assert verdict(alone).startswith("There is no control group")
    assert ">–</td>" in report(alone)
    assert verdict({}) == "The plan has no users."


def report(results: dict[str, Uplift]) -> str:
    values = {"name": "spring", "days": 30, "results": results, "verdict": "", "caller": None}
    return render("campaigns/report.html", path="", **values)
