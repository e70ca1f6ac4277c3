"""The Explain control in a browser. Store and explainer are in memory; one refusal is real."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from console.app import create_console
from liveprofile.settings import ServeSettings
from serve.keys import Role
from serve.server import listen, server_of, url_of
from tests.browser.conftest import NARROW, USER, WIDE, Console, sign_in
from tests.support.memory.api import NOW_MS, MemoryApi
from tests.support.memory.explainer import MemoryExplainer
from tests.support.rows.console_rows import KNOWN_USER, fill_console
from tests.unit.console.conftest import MemoryJob

pytestmark = pytest.mark.browser

PATH = f"/user?id={quote(KNOWN_USER)}"
NEWEST = "Explain the window to 2017-11-26 01:05:00"
EFFECT = "-4 points"


class Explaining(NamedTuple):
    url: str
    key: str
    explainer: MemoryExplainer


@pytest.fixture(scope="module")
def explaining() -> Iterator[Explaining]:
    """The console in a thread."""
    limits = ServeSettings(console_port=0, port=0, deadline_ms=30_000)
    api, explainer = fill_console(MemoryApi()), MemoryExplainer()
    key = api.add_key(Role.ANALYST, "otto").text
    clock = {"clock_ms": lambda: NOW_MS}
    app = create_console(limits, api.store(), MemoryJob(), {}, explainer=explainer, **clock)
    server = server_of(app, limits)
    with listen(limits) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Explaining(url_of(limits, listening), key, explainer)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(autouse=True)
def _as_before(explaining: Explaining) -> None:
    explaining.explainer.delay_s, explaining.explainer.fail = 0.0, None
    explaining.explainer.changed = {}


def assert_accessible(page: Page, width: int) -> None:
    found = Axe().run(page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("width", "scheme"), [(WIDE, "light"), (NARROW, "dark")])
def test_window_is_explained_by_keyboard(
    browser: Browser, explaining: Explaining, width: int, scheme: str
) -> None:
    explaining.explainer.delay_s = 3.0
    page = sign_in(browser, explaining.url, explaining.key, PATH, width, scheme)
    asked = len(explaining.explainer.asked)
    button = page.get_by_role("button", name=NEWEST)
    button.focus()
    page.keyboard.press("Enter")
    place = page.locator(".explanation").first
    expect(page.locator("#explaining")).to_have_text("Computing: this takes about a minute.")
    expect(place.get_by_role("progressbar", name="Computing the explanation")).to_be_visible()
    assert_accessible(page, width)
    page.keyboard.press("Enter")  # a second press does not start a second one
    expect(place).to_contain_text(EFFECT)
    expect(page.locator("#explaining")).to_have_text("The window is explained.")
    expect(place.get_by_role("heading", name="What each event changed")).to_be_focused()
    rows = place.locator("tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text("purchase of espresso")
    assert_accessible(page, width)
    assert len(explaining.explainer.asked) == asked + 1


def test_leaving_the_page_ends_the_computation(browser: Browser, explaining: Explaining) -> None:
    explaining.explainer.delay_s = 600.0
    page = sign_in(browser, explaining.url, explaining.key, PATH)
    cancelled, asked = explaining.explainer.cancelled, len(explaining.explainer.asked)
    page.get_by_role("button", name=NEWEST).click()
    end_s = time.monotonic() + 30
    while len(explaining.explainer.asked) == asked:
        assert time.monotonic() < end_s
        page.wait_for_timeout(50)
    page.goto("/alerts")
    while explaining.explainer.cancelled == cancelled:
        assert time.monotonic() < end_s
        page.wait_for_timeout(50)


def test_window_of_another_model_is_refused_by_the_real_child(console: Console) -> None:
    page = console.open(f"/user?id={USER}")
    page.get_by_role("button", name="Explain the window to").first.click()
    expect(page.locator(".explanation").first).to_contain_text(
        "This window is not explained. The window was scored by model", timeout=120_000
    )
