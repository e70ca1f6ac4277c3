"""Signing in, sessions, forms of other sites, and what an answer says about itself."""

import re
from urllib.parse import parse_qs, urlsplit

import pytest

from console.access import HOME, local_path
from serve.keys import ANALYST, READER, Scope
from tests.support.memory.api import NOW_MS, MemoryApi
from tests.unit.console.conftest import FETCH, SAME_ORIGIN, Browse
from tests.unit.serve.conftest import Clock


def test_page_without_a_session_leads_to_the_sign_in_and_back(
    browse: Browse, api: MemoryApi
) -> None:
    browser = browse(None)
    assert browser.get("/health/ready").json() == {"status": "ok"}
    answer = browser.get("/user?id=42", follow_redirects=False)
    assert answer.status_code == 303
    target = urlsplit(answer.headers["location"])
    assert (target.path, parse_qs(target.query)) == ("/sign-in", {"next": ["/user?id=42"]})
    fields = {"key": api.add_key(READER).text, "next": "/user?id=42"}
    signed_in = browser.post("/sign-in", data=fields, headers=SAME_ORIGIN)
    assert signed_in.url.path == "/user"
    assert "User 42" in signed_in.text
    # The cookie has no key, and is closed to scripts and to other sites.
    cookie = signed_in.history[0].headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    assert fields["key"].split("_")[2] not in cookie


def test_wrong_key_is_told_on_the_form(browse: Browse, api: MemoryApi) -> None:
    browser = browse(None)
    key_id = api.add_key(READER).stored.key_id
    answer = browser.post("/sign-in", data={"key": f"lp_{key_id}_{64 * '0'}"}, headers=SAME_ORIGIN)
    assert answer.status_code == 401
    assert "This key is not valid" in answer.text
    assert not browser.cookies


def test_signing_in_counts_as_a_request_of_the_key(browse: Browse, api: MemoryApi) -> None:
    browser, fields = browse(None, max_requests_per_s=1), {"key": api.add_key(READER).text}
    sent = {"data": fields, "headers": SAME_ORIGIN, "follow_redirects": False}
    assert [browser.post("/sign-in", **sent).status_code for _ in range(3)] == [303, 303, 429]


def test_sign_out_ends_the_session_on_the_server(browse: Browse) -> None:
    browser = browse()
    cookies = dict(browser.cookies)
    browser.post("/sign-out", headers=SAME_ORIGIN)
    browser.cookies.update(cookies)
    assert browser.get("/alerts", follow_redirects=False).status_code == 303


def test_session_ends_with_its_time_and_with_its_key(
    browse: Browse, api: MemoryApi, clock: Clock
) -> None:
    browser = browse(console_idle_s=43_200)
    clock.s = 12 * 3_600 - 1.0
    assert browser.get("/alerts", follow_redirects=False).status_code == 200
    clock.s = 12 * 3_600 + 1.0
    assert browser.get("/alerts", follow_redirects=False).status_code == 303
    other = browse()
    api.clear("api_key")
    clock.s += 6.0
    assert other.get("/alerts", follow_redirects=False).status_code == 303


@pytest.mark.parametrize("headers", [{}, {"Origin": "https://evil.example"}, {"Origin": "null"}])
@pytest.mark.parametrize("path", ["/sign-in", "/sign-out", "/alerts/act"])
def test_form_of_another_site_is_refused(
    browse: Browse, api: MemoryApi, path: str, headers: dict[str, str]
) -> None:
    browser = browse(ANALYST)
    fields = {"key": "x", "flag_id": "f" * 32, "action": "close"}
    assert browser.post(path, data=fields, headers=headers).status_code == 403
    assert api.audit == []


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ("/user?id=1", "/user?id=1"),
        ("//evil.example", HOME),
        ("/\\evil.example", HOME),
        ("https://evil.example", HOME),
        ("/x\r\nSet-Cookie: a", HOME),
        ("/sign-out", HOME),
        ("", HOME),
    ],
)
def test_only_local_paths_are_gone_to_after_the_sign_in(asked: str, path: str) -> None:
    assert local_path(asked) == path


def test_without_authentication_everybody_on_this_machine_reads_and_nobody_writes(
    browse: Browse,
) -> None:
    browser = browse(None, authentication="none")
    page = browser.get("/alerts")
    assert page.status_code == 200
    assert 'name="action"' not in page.text
    fields = {"flag_id": "f" * 32, "action": "close"}
    assert browser.post("/alerts/act", data=fields, headers=SAME_ORIGIN).status_code == 403
    rebound = browser.get("/alerts", headers={"Host": "evil.example"})
    assert rebound.status_code == 403


def test_operator_sees_the_pages_of_the_key_only(browse: Browse, api: MemoryApi) -> None:
    browser = browse(frozenset({Scope.SEGMENTS, Scope.PROFILES}))
    page = browser.get("/")
    assert page.url.path == "/user"
    assert re.findall(r'<a href="(/[^"]+)"', page.text) == ["/user", "/definitions/segments"]
    refused = ("/alerts", "/alerts/queue", "/alerts/cases", "/definitions/rules", "/campaigns")
    refused += ("/definitions/segments/members?segment=loyal", "/operations", "/models")
    refused += ("/operations/trend", "/operations/rejected", "/definitions/rules/proposals")
    for path in refused:
        answer = browser.get(path)
        assert answer.status_code == 403 and "this needs the scope" in answer.text, path
    assert browser.get("/definitions/segments").status_code == 200
    assert 'class="flag' in browse().get("/user?id=42").text
    page = browser.get("/user?id=42").text
    assert 'class="flag' not in page and "/alerts" not in page
    fields = {"key": api.add_key(frozenset({Scope.AUDIT})).text}  # no page needs it
    assert browse(None).post("/sign-in", data=fields, headers=SAME_ORIGIN).status_code == 403


def test_pages_allow_their_own_files_only(browse: Browse) -> None:
    browser = browse()
    for path in ("/alerts", "/user?id=42", "/sign-in", "/nowhere"):
        answer = browser.get(path)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert "://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
        assert " style=" not in answer.text  # the policy would block it


def test_session_is_known_to_all_servers_and_ends_on_all(browse: Browse, api: MemoryApi) -> None:
    browser, other = browse(), browse(None)  # a second server, or the same after a restart
    other.cookies.update(browser.cookies)
    assert other.get("/alerts", follow_redirects=False).status_code == 200
    [digest] = [row["digest"] for row in api.session.rows("console_session")]
    browser.post("/sign-out", headers=SAME_ORIGIN)
    api.session.put("console_session", {"digest": digest, "used": NOW_MS})  # was under way
    assert other.get("/alerts", follow_redirects=False).status_code == 303


def test_idle_session_ends_though_its_queue_is_refreshed(browse: Browse, clock: Clock) -> None:
    browser = browse(console_idle_s=600)
    for clock.s in (500.0, 1_000.0):
        assert browser.get("/alerts", follow_redirects=False).status_code == 200
    for clock.s in (1_300.0, 1_590.0):
        assert browser.get("/alerts/queue", headers=FETCH).status_code == 200
    clock.s = 1_601.0
    assert browser.get("/alerts/queue", headers=FETCH).status_code == 401
