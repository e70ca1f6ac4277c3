"""`liveprofile shop trends` counts what a running job has processed, with kills and repetitions."""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from liveprofile.storage.connection import open_session
from liveprofile.trends.count_store import read_counts, read_last_chunk, read_series
from liveprofile.trends.counts import ALL, CATEGORY, Series
from liveprofile.units import DAY_MS, HOUR_MS
from tests.support.job_under_test import CLI, JobUnderTest, run_cli
from tests.support.streams.seeded import Message, with_faults
from tests.support.streams.shop import START_MS, shop_events

pytestmark = pytest.mark.services

EVENTS = 2_000
STEP_MS = HOUR_MS // 20


@pytest.fixture(scope="module")
def job(new_job: Callable[..., JobUnderTest]) -> Iterator[JobUnderTest]:
    job = new_job("trends", window={"length_ms": HOUR_MS, "out_of_orderness_ms": HOUR_MS})
    job.submit()
    yield job
    job.cancel()


@pytest.fixture(scope="module")
def sent(job: JobUnderTest) -> list[dict[str, Any]]:
    """Valid events, which are in the topic with copies and broken records."""
    events = list(itertools.islice(shop_events(3, 50, STEP_MS), EVENTS))
    stream = with_faults(events, seed=3, broken=0.05, late=0.03)
    assert stream.late and stream.broken and stream.duplicates
    job.send(stream.messages)
    huge = events[0] | {"event_id": "huge", "price": 10**400}
    job.send([Message(b"huge", json.dumps(huge).encode())])
    job.send_heartbeats(START_MS + EVENTS * STEP_MS + 3 * HOUR_MS)
    job.wait_until_caught_up()
    job.wait_until_committed()
    return events + [json.loads(stream.messages[index].value) for index in stream.late]


def stored(job: JobUnderTest, span: str, series: Series) -> dict[int, tuple[int, int]]:
    with open_session(job.settings.cassandra) as session:
        rows = read_counts(session, job.settings.topics.events, span, series, 0, 2 * START_MS)
    return {row.start_ms: (row.events, row.users) for row in rows}


def expected(events: list[dict[str, Any]], span_ms: int) -> dict[int, tuple[int, int]]:
    starts = [event["event_time"] // span_ms * span_ms for event in events]
    users = {(start, event["user_id"]) for start, event in zip(starts, events, strict=True)}
    by_start = Counter(start for start, _ in users)
    return {start: (count, by_start[start]) for start, count in Counter(starts).items()}


def test_killed_updates_count_every_event_once(job: JobUnderTest, sent) -> None:
    rng = random.Random(5)
    for _ in range(4):
        process = subprocess.Popen(
            [str(CLI), "shop", "trends", "update", "--config", str(job.config_file)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(rng.uniform(0.8, 2.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    job.run("shop", "trends", "update")
    assert stored(job, "hour", Series(ALL, "", ALL)) == expected(sent, HOUR_MS)
    assert stored(job, "day", Series(ALL, "", ALL)) == expected(sent, DAY_MS)
    purchases = [event for event in sent if event["event_type"] == "purchase"]
    for category in {event.get("category_id", "") for event in purchases}:
        of_category = [event for event in purchases if event.get("category_id", "") == category]
        series = Series(CATEGORY, category, "purchase")
        assert stored(job, "hour", series) == expected(of_category, HOUR_MS)


def test_next_update_goes_on_and_leaves_out_copies(job: JobUnderTest, sent) -> None:
    assert job.run("shop", "trends", "update")["records"] == 0
    again = sent[-1]
    new = again | {"event_id": "new", "user_id": "new"}
    job.send(Message(each["user_id"].encode(), json.dumps(each).encode()) for each in (again, new))
    job.wait_until_committed()
    report = job.run("shop", "trends", "update")
    assert (report["events"], report["duplicates"], report["behind"]) == (1, 1, 0)
    assert stored(job, "hour", Series(ALL, "", ALL)) == expected([*sent, new], HOUR_MS)
    with open_session(job.settings.cassandra) as session:
        topic = job.settings.topics.events
        assert Series(ALL, "", ALL) in read_series(session, topic)
        chunk = read_last_chunk(session, topic)
    assert chunk.done and sum(chunk.end.values()) == sum(chunk.first.values()) + 2


def test_show_prints_points_and_what_falls_outside(job: JobUnderTest, sent) -> None:
    shown = job.run("shop", "trends", "show", "--by", "hour", "--last", "48h")
    assert (
        shown["points"] and shown["points"][-1]["start_ms"] + HOUR_MS <= shown["complete_until_ms"]
    )
    assert all(point["expected"] is None for point in shown["points"])  # too few weeks
    text = run_cli("shop", "trends", "show", "--config", job.config_file).stdout
    assert "all categories, all types: events by hour" in text
    assert "Nothing falls outside the expected range." in text


def test_funnel_and_retention_read_the_deltas(job: JobUnderTest, sent) -> None:
    users = {event["user_id"] for event in sent if event["event_type"] == "view"}
    found = job.run("shop", "funnel", "--within", "1h", "--last", "400d", "--limit", "1")
    view, cart, purchase = found["groups"]["all"]
    assert 0 < purchase["users"] <= cart["users"] <= view["users"] <= len(users)
    assert view["users"] >= 0.9 * len(users)
    options = ("--within", "1h", "--last", "400d")
    assert "segment" in run_cli("shop", "funnel", *options, "--config", job.config_file).stdout
    by_category = job.run("shop", "funnel", "--by", "category", *options)["groups"]
    assert any(name.startswith("category ") for name in by_category)
    # A week counts when it is complete.
    later_ms = START_MS + 8 * DAY_MS
    later = sent[0] | {"event_id": "later", "user_id": "later", "event_time": later_ms}
    job.send([Message(b"later", json.dumps(later).encode())])
    job.send_heartbeats(later_ms + 3 * HOUR_MS)
    job.wait_until_caught_up()
    cohorts = job.run("shop", "retention")
    everyone = {event["user_id"] for event in sent}
    assert 0 < sum(cohort["users"] for cohort in cohorts) <= len(everyone)
    assert all(cohort["active"][0] == cohort["users"] for cohort in cohorts)
