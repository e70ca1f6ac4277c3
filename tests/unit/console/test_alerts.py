"""The queue of alerts over HTTP."""

import re

import pytest
from httpx2 import Response
from starlette.testclient import TestClient

from console.routes.alerts import FRESH_S, PAGE_FLAGS
from serve.keys import ANALYST, READER
from services.alerts.states import AlertState
from tests.support.memory.api import NOW_MS, MemoryApi
from tests.support.rows.api_rows import USERS, alert_case, stored_flag_of
from tests.unit.console.conftest import FETCH, SAME_ORIGIN, Browse
from tests.unit.serve.conftest import Clock

FLAG = "f" * 32
EVENT_FLAG = f"{4:032x}"


def shown(page: str) -> list[str]:
    return re.findall(r'data-flag="([^"]+)"', page)


def post(browser: TestClient, action: str, flag_id: str = FLAG, **fields: str) -> Response:
    form = {"flag_id": flag_id, "action": action, **fields}
    return browser.post("/alerts/act", data=form, headers=FETCH)


def act(browser: TestClient, action: str, flag_id: str = FLAG, **fields: str) -> str:
    answer = post(browser, action, flag_id, **fields)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_queue_is_newest_first_with_the_first_alert_open(browse: Browse) -> None:
    page = browse().get("/alerts").text
    assert len(shown(page)) == 9
    assert shown(page)[-1] == FLAG
    assert "To work on alerts, sign in" in page


def test_alert_has_reasons_evidence_history_and_case(browse: Browse, api: MemoryApi) -> None:
    detail = browse(ANALYST).get(f"/alerts/detail?flag_id={FLAG}").text
    assert "unusual amount: <strong>207.12</strong> (usual: 11.3)" in detail
    assert "<dt>usual amount</dt><dd>11.3</dd>" in detail
    assert "spent &lt;i&gt;207.12&lt;/i&gt; in a day" in detail
    assert "Nobody has worked on this alert" in detail
    api.put(alert_case(1, USERS[1])._replace(rule_id="rule001"))
    with_case = browse().get(f"/alerts/detail?flag_id={1:032x}").text
    assert "case 1 of rule001, closed since" in with_case


@pytest.mark.parametrize(
    ("action", "state"),
    [
        ("acknowledge", AlertState.ACKNOWLEDGED),
        ("fraud", AlertState.CONFIRMED),
        ("legitimate", AlertState.FALSE_POSITIVE),
        ("close", AlertState.CLOSED),
    ],
)
def test_analyst_changes_the_state_and_the_write_is_audited(
    browse: Browse, api: MemoryApi, action: str, state: AlertState
) -> None:
    browser = browse(ANALYST, "otto")
    assert f"{state.value.replace('_', ' ')} by otto" in act(browser, action, note="called")
    [entry] = api.audit
    assert (entry.name, entry.target, entry.outcome) == ("otto", FLAG, "done")
    assert entry.requested["note"] == "called"
    assert entry.requested["through"] == "console"
    assert entry.request_id
    assert FLAG not in shown(browser.get("/alerts").text)
    assert FLAG in shown(browser.get(f"/alerts?state={state.value}").text)


def test_label_of_an_event_says_that_it_was_sent(browse: Browse) -> None:
    browser = browse(ANALYST)
    assert "sent to the scoring pipeline" in act(browser, "fraud", EVENT_FLAG)
    assert "has no event" in act(browser, "fraud", FLAG)


def test_snooze_is_for_so_many_hours_and_can_be_ended(browse: Browse, api: MemoryApi) -> None:
    browser = browse(ANALYST)
    assert "for 3 hours" in act(browser, "snooze", hours="3")
    [snooze] = api.session.rows("risk_snooze")
    assert (snooze["rule_id"], snooze["until"]) == ("spend_spike", NOW_MS + 3 * 3_600_000)
    assert "The snooze has ended" in act(browser, "end_snooze", rule_id="spend_spike")
    assert api.session.rows("risk_snooze") == []


@pytest.mark.parametrize("hours", ["0", "-1", "", "x", "99999", "1.5", "٣"])
def test_wrong_hours_of_a_snooze_are_refused(browse: Browse, api: MemoryApi, hours: str) -> None:
    assert post(browse(ANALYST), "snooze", hours=hours).status_code == 422
    assert api.session.rows("risk_snooze") == []


def test_change_that_the_state_forbids_is_told(browse: Browse) -> None:
    browser = browse(ANALYST)
    act(browser, "close")
    answer = post(browser, "acknowledge")
    assert answer.status_code == 409
    assert answer.text.startswith('<div class="notice bad"')
    disabled = browser.get(f"/alerts/detail?flag_id={FLAG}").text
    assert re.search(r'value="acknowledge" data-key="a" disabled', disabled)


def test_form_works_without_javascript(browse: Browse) -> None:
    form = {"flag_id": FLAG, "action": "acknowledge"}
    answer = browse(ANALYST, "otto").post("/alerts/act", data=form, headers=SAME_ORIGIN)
    assert answer.url.path == "/alerts"
    assert "acknowledged by otto" in answer.text


def test_reader_cannot_change_anything(browse: Browse, api: MemoryApi) -> None:
    assert post(browse(READER), "close").status_code == 403
    assert api.audit == []


def test_unknown_alert_action_and_cursor_are_told(browse: Browse) -> None:
    browser = browse(ANALYST)
    assert browser.get("/alerts?selected=none").status_code == 404
    assert post(browser, "burn").status_code == 422
    assert browser.get("/alerts?cursor=x").status_code == 400
    assert browser.post("/alerts/act", content=b"\xff", headers=FETCH).status_code == 422


def test_older_alerts_are_on_further_pages(browse: Browse, api: MemoryApi) -> None:
    api.clear("risk_flag", "risk_flag_by_day")
    api.put(*map(stored_flag_of, range(PAGE_FLAGS + 5)))
    browser = browse()
    first = browser.get("/alerts").text
    [older] = re.findall(r'href="([^"]+)">Older alerts', first)
    second = browser.get(older.replace("&amp;", "&")).text
    assert len(shown(first)) == PAGE_FLAGS
    assert len(shown(second)) == 5
    assert not set(shown(first)) & set(shown(second))


def test_new_alert_is_in_the_queue_after_the_time_of_the_cache(
    browse: Browse, api: MemoryApi, clock: Clock
) -> None:
    browser = browse()
    browser.get("/alerts/queue")
    api.put(stored_flag_of(77)._replace(window_end_ms=NOW_MS + 1))
    clock.s += FRESH_S + 0.01
    assert shown(browser.get("/alerts/queue").text)[0] == f"{77:032x}"


def test_part_of_a_page_without_cassandra_is_a_503_part(
    browse: Browse, api: MemoryApi, clock: Clock
) -> None:
    browser = browse()
    api.session.stop_answering()
    clock.s += FRESH_S + 0.01
    answer = browser.get("/alerts/queue", headers=FETCH)
    assert answer.status_code == 503
    assert "<html" not in answer.text
