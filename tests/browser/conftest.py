"""The console as a process on a real node, and Debian's Chromium."""

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from cassandra.cluster import Session
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

from liveprofile.storage.connection import open_session
from liveprofile.storage.cql import now_ms
from liveprofile.units import HOUR_MS
from models.profile.model_card import ModelCard
from serve.keys import ADMIN, ANALYST, new_key, write_key
from services.alerts import case_store
from services.alerts.case_store import NewAlert
from tests.support.api_server import api_server, wait_until_ready
from tests.support.job_under_test import JobUnderTest
from tests.support.rows.stored_windows import row_of, spike
from udfs.profile.rows import ProfileRow
from udfs.profile.store import CassandraProfileStore

expect.set_options(timeout=30_000)  # other tests keep the cores busy

USER, OTHERS = "anna", [f"user{number}" for number in range(24)]
WINDOWS = 8
DAY_S = 86_400
WIDE, NARROW = 1_280, 390
TIMEOUT_MS = 20_000


class Console(NamedTuple):
    """`requests`: addresses of all requests of the test's pages."""

    url: str
    key: str  # of the analyst otto
    admin_key: str  # of olga
    job: JobUnderTest
    session: Session
    sink: CassandraProfileStore
    dim: int
    last_end_ms: int  # of the windows that are stored at the start
    browser: Browser
    requests: list[str]

    def open(self, path: str, width: int = WIDE, scheme: Any = "light", key: str = "") -> Page:
        """A page of a browser that has signed in, as otto if no other key is given."""

        def note(request: Request) -> None:
            self.requests.append(request.url)

        return sign_in(self.browser, self.url, key or self.key, path, width, scheme, note)

    def picture(self, page: Page, name: str) -> None:
        """Takes a picture for the docs: PICTURES=docs/images pytest tests/browser."""
        if folder := os.environ.get("PICTURES"):
            page.screenshot(path=f"{folder}/{name}.png", full_page=True)

    def hosts(self) -> set[str]:
        return {urlsplit(address).netloc for address in self.requests}

    def add(self, *rows: ProfileRow) -> None:
        self.sink.writer.write(rows)
        self.sink.writer.flush()


def sign_in(
    browser: Browser,
    url: str,
    key: str,
    path: str,
    width: int = WIDE,
    scheme: Any = "light",
    note: Callable[[Request], None] = lambda request: None,
    **options: Any,
) -> Page:
    """The page at a path, in a context of its own. note: is called for each request."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, base_url=url, **options
    )
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.on("request", note)
    page.goto(path)
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"**{path}")
    return page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    assert program, "browser tests need Debian's Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, chromium_sandbox=False)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def console(new_job: Callable[..., JobUnderTest], browser: Browser) -> Iterator[Console]:
    """The console on a keyspace of its own: a user with windows, and others with an alert each."""
    serve = {"authentication": "keys", "deadline_ms": 10_000, "second_approver": True}
    job = new_job("console", serve=serve)
    dim = ModelCard.read(job.settings.model.checkpoint).shape["embedding"]
    end_ms = now_ms() // HOUR_MS * HOUR_MS - HOUR_MS
    with open_session(job.settings.cassandra) as session:
        sink = CassandraProfileStore(job.settings.cassandra, dim, session)
        sink.writer.write([row_of(USER, end_ms, hours, dim) for hours in range(WINDOWS)])
        sink.writer.write([row_of(user, end_ms, 0, dim, spike(user, 0)) for user in OTHERS])
        sink.writer.flush()
        alert = NewAlert(f"{OTHERS[0]}-0", end_ms, OTHERS[0], "spend_spike", "high", "a", "m")
        case_store.add_alert(session, alert, ttl_s=3_600)
        keys = []
        for name, scopes in (("otto", ANALYST), ("olga", ADMIN)):
            made = new_key(name, scopes, "test", now_ms(), DAY_S)
            write_key(session, made.stored, now_ms())
            keys.append(made.text)
        with api_server(job.config_file, "console") as url:
            wait_until_ready(url)
            yield Console(url, *keys, job, session, sink, dim, end_ms, browser, [])


@pytest.fixture(autouse=True)
def _no_other_hosts(console: Console) -> Iterator[None]:
    yield
    assert console.hosts() == {console.url.removeprefix("http://")}
