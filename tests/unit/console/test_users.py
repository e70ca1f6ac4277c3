"""The page of a user over HTTP, with the Explain control of windows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import quote

import orjson
import pytest
from starlette.testclient import TestClient

from liveprofile.units import DAY_MS, HOUR_MS, SECOND_MS
from serve.explainer import ExplanationRefusedError
from serve.keys import Role
from tests.support.memory.api import NOW_MS, MemoryApi
from tests.support.memory.explainer import MemoryExplainer
from tests.support.rows.console_rows import KNOWN_USER, WINDOWS, known_delta, known_profile
from tests.support.rows.value_curves import curve_document
from tests.unit.console.conftest import SAME_ORIGIN

Browse = Callable[..., TestClient]
ADDRESS = f"/user?id={quote(KNOWN_USER)}"


def test_page_shows_who_the_user_is_and_escapes_what_clients_sent(browse: Browse) -> None:
    page = browse().get(ADDRESS).text
    assert "A coupon user and loyal customer: 23 purchases for 1,037.5" in page
    assert page.count("<svg") == 3
    assert "<li>espresso</li>" in page
    assert "anna&lt;b&gt;" in page
    assert "anna<b>" not in page
    assert "<script>alert" not in page
    assert "everyone (4 users)" in page
    assert "segment coupon_user" not in page  # nobody is stored as its member


def test_values_of_a_curve_are_those_of_the_moment(browse: Browse, api: MemoryApi) -> None:
    row = known_profile(end_ms=NOW_MS - 7 * DAY_MS)
    document = orjson.loads(row.profile) | curve_document()
    api.put(row._replace(profile=orjson.dumps(document).decode()))
    assert "80 % probability of no purchase" in browse().get(ADDRESS).text
    last = known_delta(0)
    delta = orjson.loads(last.delta) | curve_document()
    end_ms = NOW_MS - DAY_MS
    api.put(last._replace(window_end_ms=end_ms, delta=orjson.dumps(delta).decode()))
    at_end = datetime.fromtimestamp(end_ms / SECOND_MS, UTC).isoformat().replace("+00:00", "Z")
    assert "10 % probability of no purchase" in browse().get(f"{ADDRESS}&at={at_end}").text


def test_page_of_the_past_has_the_figures_of_then(browse: Browse) -> None:
    page = browse().get(f"{ADDRESS}&at=2017-11-25T22:05:00").text
    assert "As of 2017-11-25 22:05:00" in page
    assert "38 % probability of no purchase" in page
    assert "You see a past state" in page
    assert "2017-11-26 01:05:00</time>" not in page


def test_unknown_user_is_a_404_page(browse: Browse) -> None:
    answer = browse().get("/user?id=nobody")
    assert answer.status_code == 404
    assert "No profile of user <strong>nobody</strong>" in answer.text
    assert "Show the user" in browse().get("/user").text


def test_bug_is_told_without_its_trace(browse: Browse, api: MemoryApi) -> None:
    browser = browse()
    api.session.fail = RuntimeError("secret detail")
    answer = browser.get(ADDRESS)
    assert answer.status_code == 500
    assert "secret detail" not in answer.text


FIELDS = {"id": KNOWN_USER, "end": str(NOW_MS - HOUR_MS)}
FETCH = SAME_ORIGIN | {"X-Console": "fetch"}


def test_each_window_has_the_control_for_analysts(browse: Browse) -> None:
    page = browse(Role.ANALYST).get(ADDRESS).text
    assert page.count('action="/user/explain"') == WINDOWS
    assert page.count('name="end" value=') == WINDOWS
    assert 'aria-label="Explain the window to 2017-11-26 01:05:00"' in page
    assert "/user/explain" not in browse(Role.READER).get(ADDRESS).text


def test_form_shows_the_events_that_moved_the_values(
    browse: Browse, explainer: MemoryExplainer, api: MemoryApi
) -> None:
    browser = browse(Role.ANALYST)
    page = browser.post("/user/explain", data=FIELDS, headers=SAME_ORIGIN)
    assert page.status_code == 200
    assert explainer.asked == [(KNOWN_USER, NOW_MS - HOUR_MS)]
    assert "<html" in page.text and 'href="/user?id=anna%3Cb%3E"' in page.text
    assert page.text.index("purchase of espresso (coffee)") < page.text.index("view of &lt;i&gt;9")
    assert '<td class="n">-4 points</td><td class="n">3.5</td><td>coffee 20 % → 50 %' in page.text
    assert "28 % before the window, 23 % after it" in page.text and "coffee (50 %)" in page.text
    assert "with a smaller effect or none: 1." in page.text
    part = browser.post("/user/explain", data=FIELDS, headers=FETCH).text
    assert "<html" not in part and "-4 points" in part
    assert [(each.action, each.outcome) for each in api.audit] == [("window.explain", "done")] * 2
    assert api.audit[0].requested["through"] == "console"


def test_refusal_says_why(browse: Browse, explainer: MemoryExplainer) -> None:
    explainer.fail = ExplanationRefusedError("other-model", "scored by model m1")
    browser = browse(Role.ANALYST)
    for headers in (SAME_ORIGIN, FETCH):
        answer = browser.post("/user/explain", data=FIELDS, headers=headers)
        assert answer.status_code == 409
        assert "This window is not explained." in answer.text
        assert "Scored by model m1." in answer.text


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
