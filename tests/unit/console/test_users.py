"""The page of a user over HTTP."""

from datetime import UTC, datetime
from urllib.parse import quote

import orjson

from console.formats import utc
from liveprofile.units import DAY_MS, SECOND_MS
from tests.support.memory.api import NOW_MS, MemoryApi
from tests.support.rows.console_rows import KNOWN_USER, known_delta, known_profile
from tests.support.rows.value_curves import curve_document
from tests.unit.console.conftest import Browse

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
    page = browse().get(ADDRESS).text
    assert "80 % probability of no purchase" in page
    assert f"expected spend at {utc(NOW_MS)} UTC; the timeline has them at each window" in page
    assert "probability of no purchase at the window" in page
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
