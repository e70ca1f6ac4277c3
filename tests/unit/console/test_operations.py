"""Job, trends, rejected records and models in the console."""

import asyncio
import threading

import pytest

from console.job import FRESH_S, JobReader
from intake.files.rejected import RejectedRecord
from liveprofile.errors import ServiceUnavailableError
from liveprofile.settings import load
from liveprofile.units import HOUR_MS
from services.event_audit.results import AuditResult, store_result
from services.trends.count_store import Series
from tests.support.event_loop import on_loop
from tests.support.memory.api import NOW_MS, MemoryApi
from tests.unit.console.conftest import FETCH, STATUS, Browse, MemoryJob


def test_page_loads_its_parts_by_themselves(browse: Browse, job: MemoryJob) -> None:
    browser = browse()
    page = browser.get("/operations?metric=users&by=day").text
    assert 'data-part="/operations/job"' in page
    assert 'data-part="/operations/trend?metric=users&amp;by=day"' in page
    part = browser.get("/operations/job", headers=FETCH).text
    assert "<html" not in part
    assert "<dt>lag events</dt><dd>17</dd>" in part
    assert "No warning" in part and "<dt>checkpoint, age s</dt><dd>3</dd>" in part
    job.state = STATUS | {"warnings": ["no checkpoint for 99 s"]}
    part = browser.get("/operations/job", headers=FETCH).text
    assert part.index("no checkpoint for 99 s") < part.index("<dl")
    assert "<html" in browser.get("/operations/job").text


def test_cluster_that_does_not_answer_is_a_503_part(browse: Browse, job: MemoryJob) -> None:
    job.state = ServiceUnavailableError("Flink at http://127.0.0.1:1 does not answer")
    answer = browse().get("/operations/job", headers=FETCH)
    assert answer.status_code == 503
    assert "127.0.0.1:1" not in answer.text


def test_trend_marks_what_is_outside_of_the_range(browse: Browse, api: MemoryApi) -> None:
    assert "Nothing has been counted" in browse().get("/operations/trend", headers=FETCH).text
    last_ms = NOW_MS // HOUR_MS * HOUR_MS - HOUR_MS
    counts = {last_ms - n * HOUR_MS: (5, 1.0) for n in range(1, 24 * 7 * 17)} | {last_ms: (90, 1.0)}
    api.put_counts(Series("all", "", "all"), "hour", counts)
    part = browse().get("/operations/trend", headers=FETCH).text
    assert "1 outside the range" in part
    assert "<li>2017-11-26 00:00:00: 90, expected 0 to 12.83</li>" in part
    assert part.count('class="mark"') == 1
    assert browse().get("/operations/trend?metric=money").status_code == 422


@on_loop
async def test_many_browsers_read_the_job_once_at_a_time() -> None:
    reads, released = [], threading.Event()
    now_s = 0.0

    def read(_job: object) -> object:
        reads.append(1)
        released.wait(10)
        return STATUS

    reader = JobReader(load(), lambda: now_s, read)
    first = [asyncio.create_task(reader.status()) for _ in range(3)]
    await asyncio.sleep(0)
    now_s = 2 * FRESH_S  # still reading: another read would only wait for its turn
    late = asyncio.create_task(reader.status())
    await asyncio.sleep(0)
    released.set()
    assert await asyncio.gather(*first, late) == 4 * [[STATUS]]
    assert len(reads) == 1
    await reader.status()
    assert len(reads) == 2


def test_last_audit_and_earlier_ones(browse: Browse, api: MemoryApi) -> None:
    assert "No audit is stored" in browse().get("/operations/audit", headers=FETCH).text
    for result in (
        AuditResult(NOW_MS, False, {"in_topic": 1_200, "unaccounted": 3}),
        AuditResult(NOW_MS - HOUR_MS, True, {"in_topic": 900, "unaccounted": 0}),
    ):
        store_result(api.session, api.settings.topics.events, result, 60)
    part = browse().get("/operations/audit", headers=FETCH).text
    assert "not every record is accounted for" in part
    assert "<dt>in topic</dt><dd>1,200</dd>" in part
    assert "00:05:00: clean" in part


PAGE = "/operations/rejected"
PAYLOAD = b'{"user_id": "<b>",\n "amount": "12,5"}'
RECORD = RejectedRecord(
    "0:0", NOW_MS, "BAD_NUMBER", "amount", "behavior-events", 1, 5, False, PAYLOAD
)
OTHER = RECORD._replace(id="0:1", reason="TOO_MANY", payload=b'{"user_id": "a", "event_id": "e"}')


@pytest.fixture(autouse=True)
def _rejected(api: MemoryApi) -> None:
    api.reject(RECORD, OTHER)


def test_records_are_listed_by_reason(browse: Browse) -> None:
    page = browse().get(PAGE).text
    assert "bad number (1)" in page
    assert "&lt;b&gt;" in page
    filtered = browse().get(f"{PAGE}?reason=TOO_MANY").text
    assert ">0:1<" in filtered and ">0:0<" not in filtered
    assert browse().get(f"{PAGE}?reason=nothing").status_code == 422
    part = browse().get(f"{PAGE}/summary", headers=FETCH).text
    assert "reason=BAD_NUMBER" in part


def test_page_has_card_and_curves_of_each_model(browse: Browse) -> None:
    page = browse().get("/models").text
    assert "<dt>horizon days</dt><dd>30</dd>" in page
    assert "<dt>validation, category ndcg at 10</dt>" in page
    assert page.count("<svg") == 4
    assert "The checkpoint is not on this machine" in page
