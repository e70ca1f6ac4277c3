"""What marketers and two risk analysts do in a browser."""

from playwright.sync_api import expect

from services.definitions import read_kind
from tests.browser.conftest import Console
from tests.support.paths import ROOT

STRICTER = ("purchase_amount_z >= threshold", "purchase_amount_z >= 9")


def test_two_people_change_the_rules(console: Console) -> None:
    # The first transaction of a cluster may take longer than a request.
    console.job.run("risk", "rules", "apply", str(ROOT / "rules.toml"))
    page = console.open("/definitions/rules")
    text = page.get_by_label("All rules (TOML)")
    text.fill(text.input_value().replace(*STRICTER))
    expect(page.locator("#checked")).to_contain_text("no errors")
    page.get_by_label("Why").fill("too many alerts")
    page.get_by_role("button", name="Propose").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Rules proposed by otto")
    path = page.url.removeprefix(console.url)
    other = console.open(path, key=console.admin_key)
    expect(other.locator(".diff .removed")).to_contain_text(STRICTER[0])
    other.get_by_role("button", name="Approve and apply").click()
    expect(other.get_by_role("status")).to_contain_text("Applied by olga")
    rules = read_kind(console.job.settings, "rules").definitions.rules
    assert any(STRICTER[1] in rule.when for rule in rules)


def test_marketer_reads_what_a_campaign_changed(console: Console) -> None:
    console.job.run("campaign", "plan", "spring", "--segment", "loyal", "--control", "0.5")
    page = console.open("/campaigns")
    page.get_by_role("link", name="spring").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Campaign spring")
    page.get_by_role("button", name="Compare the groups").click()
    expect(page.locator(".lead")).to_contain_text("the purchase rate changed by")
