"""An analyst's work in a real browser, against real rows."""

import time

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from liveprofile.storage.cql import now_ms
from liveprofile.units import HOUR_MS
from services.alerts.states import AlertState, read_state
from services.audit_trail import read_trail
from tests.browser.conftest import NARROW, OTHERS, USER, WIDE, WINDOWS, Console
from tests.support import summary
from tests.support.rows.stored_windows import row_of, spike

ALERTS, MINUTE_S = 20, 60.0
ON_SCREEN_LIMIT_S = 3.0  # a second on a quiet machine; tests share two cores
KEYS = {
    "a": AlertState.ACKNOWLEDGED,
    "f": AlertState.CONFIRMED,
    "l": AlertState.FALSE_POSITIVE,
    "c": AlertState.CLOSED,
}
PAGES = (
    "/alerts",
    "/alerts/cases",
    f"/user?id={USER}",
    "/user?id=nobody",
    "/definitions/rules",
    "/definitions/segments",
    "/campaigns",
    "/operations",
    "/operations/rejected",
    "/models",
)


def queued(page: Page) -> list[str]:
    return page.eval_on_selector_all("tr[data-flag]", "rows => rows.map(row => row.dataset.flag)")


def test_new_alert_is_on_screen_within_a_second(console: Console) -> None:
    page = console.open("/alerts")
    expect(page.locator("tr[data-flag]")).to_have_count(len(OTHERS))
    newest = spike(USER, 1)
    console.add(row_of(USER, console.last_end_ms + HOUR_MS, 0, console.dim, newest))
    readable_s = time.monotonic()
    page.locator(f"tr[data-flag='{newest.flag_id}']").wait_for()
    seconds = time.monotonic() - readable_s
    summary.LINES.append(f"console: a new alert was on screen after {seconds:.2f} s")
    assert seconds < ON_SCREEN_LIMIT_S
    assert queued(page)[0] == newest.flag_id
    expect(page.get_by_role("status").first).to_have_text("1 new alert.")
    console.picture(page, "alerts")


def test_analyst_works_on_twenty_alerts_by_keyboard(console: Console) -> None:
    page = console.open("/alerts")
    detail = page.locator("#detail")
    expect(detail.get_by_text("Reasons")).to_be_visible()
    worked: dict[str, AlertState] = {}
    started_s = time.monotonic()
    for number in range(ALERTS):
        current = page.locator("tr[aria-current]")
        flag_id = current.get_attribute("data-flag")
        expect(detail.locator("input[name=flag_id]").first).to_have_value(flag_id)
        key = "aflc"[number % 4]
        if key == "a":  # the next reading of the queue fails
            page.route("**/alerts/queue?*", lambda route: route.abort(), times=1)
        page.keyboard.press(key)
        expect(page.locator(f"tr[data-flag='{flag_id}']")).to_have_count(0)
        worked[flag_id] = KEYS[key]
    seconds = time.monotonic() - started_s
    summary.LINES.append(f"console: {ALERTS} alerts by keyboard took {seconds:.1f} s")
    assert seconds < MINUTE_S
    assert len(worked) == ALERTS
    for flag_id, state in worked.items():
        stored = read_state(console.session, flag_id)
        assert (stored.state, stored.by) == (state, "otto")
    trail = read_trail(console.session, console.job.settings, now_ms(), 100)
    assert {(entry.target, entry.outcome) for entry in trail} == {(each, "done") for each in worked}


def test_note_and_snooze(console: Console) -> None:
    page = console.open("/alerts")
    page.keyboard.press("j")
    page.keyboard.press("n")
    expect(page.get_by_label("Note")).to_be_focused()
    page.keyboard.type("called the customer: a, c and f are letters here")
    page.keyboard.press("Escape")
    page.keyboard.press("s")
    expect(page.locator("#detail .notice")).to_contain_text("for 8 hours")
    expect(page.locator("#detail")).to_contain_text("called the customer: a, c and f")
    page.get_by_role("button", name="End it").click()
    expect(page.locator("#detail .notice")).to_have_text("The snooze has ended.")


def test_user_page_shows_now_and_then(console: Console) -> None:
    page = console.open(f"/user?id={USER}")
    expect(page.locator(".lead")).to_contain_text("23 purchases for 1,037.5")
    expect(page.get_by_role("img", name="Shares of categories")).to_be_visible()
    expect(page.get_by_role("img", name="Share of events by weekday and hour")).to_be_visible()
    expect(page.locator(".items li")).to_have_text(["espresso", "mug", "filter"])
    console.picture(page, "user")
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("Home")
    page.wait_for_url("**at=**")
    expect(page.get_by_text("You see a past state")).to_be_visible()
    expect(page.locator(".timeline .window")).to_have_count(1)
    assert page.get_by_role("slider").get_attribute("max") >= str(WINDOWS - 1)
    page.get_by_role("link", name="Now", exact=True).click()
    page.locator("section[aria-labelledby=similar] a").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("User user")


@pytest.mark.parametrize(
    ("width", "scheme", "pages"), [(WIDE, "light", PAGES), (NARROW, "dark", PAGES[::2])]
)
def test_pages_are_accessible_and_fit(
    console: Console, width: int, scheme: str, pages: tuple[str, ...]
) -> None:
    page = console.open("/alerts", width, scheme)
    paints = []
    for path in pages:
        page.goto(path)
        found = Axe().run(page).response["violations"]
        assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        paints.append(page.evaluate("performance.getEntriesByType('paint').at(-1).startTime"))
    summary.LINES.append(f"console: first paint of a page after at most {max(paints):.0f} ms")
