"""Rejected records in the console."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape

import pytest
from starlette.testclient import TestClient

from console.routes.operations import sent_payload
from liveprofile.ingest.rejected import RejectedRecord
from serve.keys import Role
from tests.support.memory.api import NOW_MS, MemoryApi
from tests.unit.console.conftest import SAME_ORIGIN

Browse = Callable[..., TestClient]
PAGE = "/operations/rejected"
PAYLOAD = b'{"user_id": "<b>",\n "amount": "12,5"}'
RECORD = RejectedRecord(
    "0:0", NOW_MS, "BAD_NUMBER", "amount", "behavior-events", 1, 5, False, PAYLOAD
)
OTHER = RECORD._replace(id="0:1", reason="TOO_MANY", payload=b'{"user_id": "a", "event_id": "e"}')
CORRECTED = '{"user_id": "<b>", "amount": 12.5}'


@pytest.fixture(autouse=True)
def _rejected(api: MemoryApi) -> None:
    api.reject(RECORD, OTHER)


def test_records_are_listed_by_reason(browse: Browse) -> None:
    page = browse().get(PAGE).text
    assert "bad number (1)" in page
    assert "&lt;b&gt;" in page
    filtered = browse().get(f"{PAGE}?reason=TOO_MANY").text
    assert "id=0%3A1" in filtered
    assert "id=0%3A0" not in filtered
    assert browse().get(f"{PAGE}?reason=nothing").status_code == 422
    part = browse().get(f"{PAGE}/summary", headers={"X-Console": "fetch"}).text
    assert "reason=BAD_NUMBER" in part


def test_admin_corrects_a_record(browse: Browse, api: MemoryApi) -> None:
    admin = browse(Role.ADMIN, "olga")
    page = admin.get(f"{PAGE}/record?id=0:0").text
    shown = unescape(re.search(r"<textarea[^>]*>\n?(.*?)</textarea>", page, re.DOTALL)[1])
    assert shown == PAYLOAD.decode()
    fields = {"id": "0:0", "payload": CORRECTED, "action": "check"}
    checked = admin.post(f"{PAGE}/resend", data=fields, headers=SAME_ORIGIN)
    assert "The record is valid." in checked.text
    assert not api.kafka.records["behavior-events"]
    sent = admin.post(f"{PAGE}/resend", data=fields | {"action": "send"}, headers=SAME_ORIGIN)
    assert "The record was sent" in sent.text
    [record] = api.kafka.records["behavior-events"]
    assert record.value == CORRECTED.encode()
    [entry] = api.audit
    assert (entry.name, entry.action, entry.target) == ("olga", "rejected.resend", "0:0")
    assert entry.requested == {"reason": "BAD_NUMBER", "through": "console"}


def test_faulty_correction_keeps_the_text(browse: Browse, api: MemoryApi) -> None:
    admin = browse(Role.ADMIN)
    for text, told in (
        (PAYLOAD.decode().replace("\n", "\r\n"), "unchanged, so it is BAD_NUMBER again"),
        ('{"user_id": ', "the payload is not JSON"),
    ):
        fields = {"id": "0:0", "payload": text, "action": "send"}
        answer = admin.post(f"{PAGE}/resend", data=fields, headers=SAME_ORIGIN)
        assert answer.status_code == 422
        assert told in unescape(answer.text)
        assert "user_id" in unescape(answer.text)
    assert not api.kafka.records["behavior-events"]


def test_analyst_sees_records_and_sends_none(browse: Browse, api: MemoryApi) -> None:
    analyst = browse(Role.ANALYST)
    assert "role admin" in analyst.get(f"{PAGE}/record?id=0:0").text
    fields = {"id": "0:0", "payload": CORRECTED, "action": "send"}
    answer = analyst.post(f"{PAGE}/resend", data=fields, headers=SAME_ORIGIN)
    assert answer.status_code == 403
    assert not api.kafka.records["behavior-events"]


@pytest.mark.parametrize("record_id", ["0:18", "nonsense"])
def test_unknown_record_is_a_404_page(browse: Browse, record_id: str) -> None:
    assert browse().get(f"{PAGE}/record?id={record_id}").status_code == 404


def test_notes_say_what_a_correction_needs(browse: Browse, api: MemoryApi) -> None:
    assert "event_id is already used" in browse().get(f"{PAGE}/record?id=0:1").text
    gone = RECORD._replace(payload=None, truncated=True)
    api.reject(gone)
    page = browse().get(f"{PAGE}/record?id=0:2").text
    assert "The payload is truncated" in page and "The record has no payload" in page
    assert sent_payload(gone, "") == b""
    assert sent_payload(RECORD, PAYLOAD.decode()) == PAYLOAD
