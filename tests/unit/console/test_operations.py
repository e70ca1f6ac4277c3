"""The state of the job and the trends in the console."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from starlette.testclient import TestClient

from console.job import FRESH_S, FlinkJobReader
from console.views.operations import job_figures, trend_view
from liveprofile.config import load
from liveprofile.errors import ServiceUnavailableError
from liveprofile.trends.points import Point
from liveprofile.units import HOUR_MS
from serve.store.protocol import TrendPoints
from tests.support.memory.api_store import NOW_MS, MemoryApiStore
from tests.unit.console.conftest import FACTS, SAME_ORIGIN, MemoryJob

Browse = Callable[..., TestClient]
FETCH = SAME_ORIGIN | {"X-Console": "fetch"}


def test_page_loads_its_parts_by_themselves(browse: Browse) -> None:
    browser = browse()
    page = browser.get("/operations?metric=users&by=day").text
    assert 'data-part="/operations/job"' in page
    assert 'data-part="/operations/trend?metric=users&amp;by=day"' in page
    part = browser.get("/operations/job", headers=FETCH).text
    assert "<html" not in part
    assert "<dt>profile pipeline, records behind</dt><dd>17</dd>" in part
    assert "No warning" in part
    assert "<html" in browser.get("/operations/job").text


def test_warnings_of_the_job_come_first(browse: Browse, job: MemoryJob) -> None:
    job.state = FACTS._replace(warnings=["no checkpoint for 99 s"])
    part = browse().get("/operations/job", headers=FETCH).text
    assert part.index("no checkpoint for 99 s") < part.index("<dl")


def test_cluster_that_does_not_answer_is_a_503_part(browse: Browse, job: MemoryJob) -> None:
    job.state = ServiceUnavailableError("Flink at http://127.0.0.1:1 does not answer")
    answer = browse().get("/operations/job", headers=FETCH)
    assert answer.status_code == 503
    assert "127.0.0.1:1" not in answer.text


def test_figures_without_checkpoint_and_scoring() -> None:
    facts = FACTS._replace(
        job=FACTS.job._replace(checkpoint=None), scoring=None, lag_scoring=None, models=None
    )
    figures = dict(job_figures(facts))
    assert figures["last checkpoint"] == "none yet"
    assert "scoring pipeline, records behind" not in figures
    assert dict(job_figures(FACTS))["last checkpoint"] == "3 s ago"


def test_trend_marks_what_is_outside_of_the_range(browse: Browse, store: MemoryApiStore) -> None:
    points = [
        Point(NOW_MS, 5.0, None, None, None, False),
        Point(NOW_MS + HOUR_MS, 90.0, 6.0, 4.0, 8.0, True),
    ]
    view = trend_view(TrendPoints(NOW_MS, points))
    assert len(view.chart.marks) == 1
    assert view.outside == ["2017-11-26 02:05:00: 90, expected 4 to 8"]
    part = browse().get("/operations/trend", headers=FETCH).text
    assert "1 outside of the range" in part
    store.trend_points.clear()
    assert "Nothing has been counted" in browse().get("/operations/trend", headers=FETCH).text
    assert browse().get("/operations/trend?metric=money").status_code == 422


def test_many_browsers_read_the_job_once_at_a_time() -> None:
    reads, released = [], threading.Event()
    now_s = 0.0

    def read(_settings: object) -> object:
        reads.append(1)
        released.wait(10)
        return FACTS

    async def run() -> None:
        nonlocal now_s
        reader = FlinkJobReader(load(), lambda: now_s, read)
        first = [asyncio.create_task(reader.facts()) for _ in range(3)]
        await asyncio.sleep(0)
        now_s = 2 * FRESH_S  # still reading: another read would only wait for its turn
        late = asyncio.create_task(reader.facts())
        await asyncio.sleep(0)
        released.set()
        assert await asyncio.gather(*first, late) == 4 * [FACTS]
        assert len(reads) == 1
        await reader.facts()
        assert len(reads) == 2

    asyncio.run(run())
