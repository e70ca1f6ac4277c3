"""`liveprofile shop trends` counts what a running job has processed, with kills and repetitions."""

import random
import time
from collections import Counter

from liveprofile.kafka.records import read_topic
from liveprofile.storage.connection import open_session
from liveprofile.units import DAY_MS, HOUR_MS
from services.trends.count_store import (
    ALL,
    CATEGORY,
    Series,
    read_counts,
    read_last_chunk,
    read_series,
)
from tests.reference.validation import ValidEvent
from tests.reference.windows import Classification, Record, classify
from tests.services.processed.conftest import stream_with_faults
from tests.support.job_under_test import JobUnderTest
from tests.support.streams.seeded import Message
from tests.support.streams.shop import START_MS, event_of, to_message


def counted(job: JobUnderTest) -> list[ValidEvent]:
    """The valid events of the topic, late ones too, each once."""
    records = [
        Record(each.partition, each.offset, each.timestamp_ms, each.key, each.value)
        for each in read_topic(job.settings, job.settings.topics.events)
    ]
    return classify(records, job.settings, frozenset(), frozenset(), Classification())


def stored(job: JobUnderTest, span: str, series: Series) -> dict[int, tuple[int, int]]:
    with open_session(job.settings.cassandra) as session:
        rows = read_counts(session, job.settings.topics.events, span, series, 0, 2 * START_MS)
    return {row.start_ms: (row.events, row.users) for row in rows}


def expected(events: list[ValidEvent], span_ms: int) -> dict[int, tuple[int, int]]:
    starts = [event.time_ms // span_ms * span_ms for event in events]
    users = {(start, event.user_id) for start, event in zip(starts, events, strict=True)}
    by_start = Counter(start for start, _ in users)
    return {start: (count, by_start[start]) for start, count in Counter(starts).items()}


def event(user_id: str, time_ms: int) -> Message:
    return to_message(event_of(user_id, time_ms, user_id))


def test_killed_updates_count_every_event_once(job: JobUnderTest) -> None:
    job.wait_until_committed()
    rng, events = random.Random(5), counted(job)
    for _ in range(2):
        with job.start("shop", "trends", "update") as process:
            time.sleep(rng.uniform(0.8, 2.0))
            process.kill()
    job.run("shop", "trends", "update")
    assert stored(job, "hour", Series(ALL, "", ALL)) == expected(events, HOUR_MS)
    assert stored(job, "day", Series(ALL, "", ALL)) == expected(events, DAY_MS)
    purchases = [event for event in events if event.event_type == "purchase"]
    for category in {event.category for event in purchases}:
        of_category = [event for event in purchases if event.category == category]
        series = Series(CATEGORY, category, "purchase")
        assert stored(job, "hour", series) == expected(of_category, HOUR_MS)


def test_next_update_goes_on_and_leaves_out_copies(job: JobUnderTest) -> None:
    assert job.run("shop", "trends", "update")["records"] == 0
    [again, *_] = stream_with_faults()
    new = event("new", START_MS)
    job.send([again, new])
    job.wait_until_committed()
    report = job.run("shop", "trends", "update")
    assert (report["events"], report["duplicates"], report["behind"]) == (1, 1, 0)
    assert stored(job, "hour", Series(ALL, "", ALL)) == expected(counted(job), HOUR_MS)
    with open_session(job.settings.cassandra) as session:
        topic = job.settings.topics.events
        assert Series(ALL, "", ALL) in read_series(session, topic)
        chunk = read_last_chunk(session, topic)
    assert chunk.done and sum(chunk.end.values()) == sum(chunk.first.values()) + 2
    shown = job.run("shop", "trends", "show", "--by", "hour", "--last", "48h")
    assert shown["points"][-1]["start_ms"] + HOUR_MS <= shown["complete_until_ms"]
    assert all(point["expected"] is None for point in shown["points"])  # too few weeks
    shown = job.cli("shop", "trends", "show").stdout
    assert "all categories, all types: events by hour" in shown
