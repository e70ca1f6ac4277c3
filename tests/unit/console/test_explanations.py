"""The Explain control of a user's windows over HTTP."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from console.app import create_console
from liveprofile.settings import ServeSettings
from liveprofile.units import HOUR_MS
from serve.explainer import ExplainerBusy, ExplanationRefused
from serve.keys import Role
from tests.support.memory.api import NOW_MS, MemoryApi
from tests.support.memory.explainer import MemoryExplainer
from tests.support.rows.console_rows import KNOWN_USER, WINDOWS
from tests.unit.console.conftest import ORIGIN, SAME_ORIGIN, MemoryJob
from tests.unit.console.test_users import ADDRESS

Browse = Callable[..., TestClient]
FIELDS = {"id": KNOWN_USER, "end": str(NOW_MS - HOUR_MS)}
FETCH = SAME_ORIGIN | {"X-Console": "fetch"}


def test_each_window_has_the_control_for_analysts(browse: Browse) -> None:
    page = browse(Role.ANALYST).get(ADDRESS).text
    assert page.count('action="/user/explain"') == WINDOWS
    assert page.count('name="end" value=') == WINDOWS
    assert 'aria-label="Explain the window to 2017-11-26 01:05:00"' in page
    assert "/user/explain" not in browse(Role.READER).get(ADDRESS).text


def test_server_without_the_model_packages_has_no_control(api: MemoryApi) -> None:
    app = create_console(ServeSettings(), api.store(), MemoryJob(), {}, clock_ms=lambda: NOW_MS)
    browser = TestClient(app, base_url=ORIGIN)
    key = api.add_key(Role.ANALYST).text
    browser.post("/sign-in", data={"key": key}, headers=SAME_ORIGIN)
    assert "/user/explain" not in browser.get(ADDRESS).text
    answer = browser.post("/user/explain", data=FIELDS, headers=SAME_ORIGIN)
    assert answer.status_code == 501
    assert "liveprofile profile explain" in answer.text


def test_form_shows_the_events_that_moved_the_values(
    browse: Browse, explainer: MemoryExplainer, api: MemoryApi
) -> None:
    browser = browse(Role.ANALYST)
    page = browser.post("/user/explain", data=FIELDS, headers=SAME_ORIGIN)
    assert page.status_code == 200
    assert explainer.asked == [(KNOWN_USER, NOW_MS - HOUR_MS)]
    assert "<html" in page.text and 'href="/user?id=anna%3Cb%3E"' in page.text
    assert "the risk of churn would be 4 points higher" in page.text
    assert "this view of &lt;i&gt;9&lt;/i&gt;" in page.text
    part = browser.post("/user/explain", data=FIELDS, headers=FETCH).text
    assert "<html" not in part and "4 points higher" in part
    assert [(each.action, each.outcome) for each in api.audit] == [("window.explain", "done")] * 2
    assert api.audit[0].requested["through"] == "console"


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ExplanationRefused("other-model", "scored by model m1"), 409, "Scored by model m1."),
        (ExplanationRefused("no-consent", "the user does not allow"), 409, "The user does not"),
        (ExplanationRefused("erased-user", "x"), 404, "No profile of this user."),
        (ExplainerBusy("1 explanations are under way"), 503, "1 explanations are under way"),
    ],
)
def test_refusal_says_why(
    browse: Browse, explainer: MemoryExplainer, error: Exception, status: int, text: str
) -> None:
    explainer.fail = error
    browser = browse(Role.ANALYST)
    for headers in (SAME_ORIGIN, FETCH):
        answer = browser.post("/user/explain", data=FIELDS, headers=headers)
        assert answer.status_code == status
        assert "This window is not explained." in answer.text and text in answer.text


@pytest.mark.parametrize("changed", [{"id": ""}, {"end": ""}, {"end": "x"}, {"end": "-5"}])
def test_wrong_fields_are_refused(
    browse: Browse, explainer: MemoryExplainer, changed: dict[str, str]
) -> None:
    browser = browse(Role.ANALYST)
    answer = browser.post("/user/explain", data=FIELDS | changed, headers=SAME_ORIGIN)
    assert (answer.status_code, explainer.asked) == (422, [])


def test_readers_and_other_sites_cannot_explain(browse: Browse, explainer: MemoryExplainer) -> None:
    reader, analyst = browse(Role.READER), browse(Role.ANALYST)
    assert reader.post("/user/explain", data=FIELDS, headers=SAME_ORIGIN).status_code == 403
    assert analyst.post("/user/explain", data=FIELDS).status_code == 403
    assert explainer.asked == []
