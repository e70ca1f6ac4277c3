"""Campaigns in the console: plans and reports."""

from console.rendering import render
from console.routes.campaigns import verdict
from services.campaigns import campaigns
from services.campaigns.report import Outcome, Uplift, uplift
from services.campaigns.request import CampaignRequest
from tests.support.memory.api import NOW_MS, MemoryApi
from tests.unit.console.conftest import Browse


def test_plan_and_report_of_a_campaign(browse: Browse, api: MemoryApi) -> None:
    reader = browse()
    assert "No campaign is planned" in reader.get("/campaigns").text
    asked = CampaignRequest(when="churn < 0.9", control_share=0.6, excluded=["a", "b"])
    wish = campaigns.wish_of("spring", asked, NOW_MS)
    requested = campaigns.requested_of(asked)
    campaigns.plan(api.session, api.settings, wish, "mara", requested)
    assert "spring</a>" in reader.get("/campaigns").text
    page = reader.get("/campaigns/spring").text
    assert "<dd>churn &lt; 0.9</dd>" in page and "UTC by mara" in page
    assert "<dt>left out, open fraud case</dt><dd>1</dd>" in page
    assert reader.get("/campaigns/none").status_code == 404
    report = reader.get("/campaigns/spring/report?days=14").text
    assert "No clear effect" in report
    assert '<td class="n">1 / 1</td>' in report
    assert reader.get("/campaigns/spring/report?days=0").status_code == 422


def test_report_says_what_the_interval_allows() -> None:
    bought, nothing = Outcome(True, 10.0), Outcome(False, 0.0)
    clear = uplift([bought] * 90 + [nothing] * 10, [nothing] * 90 + [bought] * 10)
    results = {"all": clear, "loyal": clear, "new": clear}
    assert verdict(results).startswith("The purchase rate changed by 80 points (")
    page = rendered(results)
    assert ">90 % / 10 %<" in page and ">80 points (" in page
    assert "2 segments are compared" in page
    alone = {"all": uplift([bought], [])}
    assert verdict(alone).startswith("There is no control group")
    assert ">–</td>" in rendered(alone)
    assert verdict({}) == "The plan has no users."


def rendered(results: dict[str, Uplift]) -> str:
    values = {"name": "spring", "days": 30, "results": results, "verdict": "", "caller": None}
    return render("campaigns/report.html", path="", **values)
