"""A job hands over to another: from an archive (bootstrap), and from a job that goes on meanwhile.

One job, `control`, reads everything. Another one goes on from an archive and must store what
`control` stores, in all columns of all rows: the stream has duplicates and late events before and
after the end of the archive, and the live topic holds the last tenth of the archive too. Then a
third one starts from a savepoint of `control`, which goes on, and writes the same keyspace and
topics: everything must equal the reference's, as if one job had read the topic; alerts and segment
changes that both have sent have the same ids and content.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from liveprofile.alerts.cloud_events import to_rfc3339
from liveprofile.ingest.replay import closing_time_ms
from liveprofile.kafka.offsets import bootstrap_group, commit_offsets, partition_ranges
from liveprofile.kafka.records import read_topic, send_all
from liveprofile.kafka.topics import NoTopicError, create_unlimited_topic
from liveprofile.storage import queries
from liveprofile.storage.connection import open_session
from liveprofile.storage.cql import execute
from liveprofile.units import DAY_MS, HOUR_MS, MINUTE_MS
from tests.support.compare import compare_with_reference
from tests.support.compare_profiles import scan
from tests.support.compare_scoring import assert_scoring
from tests.support.job_under_test import TWO_TASKS, JobUnderTest
from tests.support.streams.seeded import Message, with_faults
from tests.support.streams.shop import (
    BURST_EVERY_HOURS,
    CARD_TEST_RULE,
    START_MS,
    card_test,
    shop_events,
    to_message,
)

pytestmark = pytest.mark.services

EVENTS, USERS, SPAN_MS = 2_400, 40, 60 * HOUR_MS
WINDOW = {"length_ms": HOUR_MS, "out_of_orderness_ms": HOUR_MS // 2}
ARCHIVE_UNTIL, LIVE_FROM = 0.6, 0.5
FLOAT = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
CURVES = re.compile(r'"value_curves":\{[^{}]*\}')
TABLES = ("user_profile", "profile_delta", "risk_score_by_hour", "risk_flag", "risk_flag_by_day")


def messages() -> list[Message]:
    """Users share no coupon and no place: the order of two partitions changes from run to run."""
    events = (
        event | {"coupon_id": None, "place": None}
        for event in itertools.islice(shop_events(21, USERS, SPAN_MS // EVENTS), EVENTS)
    )
    stream = with_faults(events, 21, duplicates=0.05, late=0.05, broken=0.0, late_by_ms=2 * DAY_MS)
    return stream.messages


class Jobs(NamedTuple):
    control: JobUnderTest  # has read all events from its topic
    live: JobUnderTest  # goes on from an archive
    report: dict[str, Any]  # output of `liveprofile events bootstrap`
    archive_end_ms: int


def leave_topic_of_a_killed_bootstrap(job: JobUnderTest) -> None:
    """The topic has an event, which the group has read."""
    topic, group = f"{job.settings.topics.events}-bootstrap", bootstrap_group(job.settings.kafka)
    create_unlimited_topic(job.settings, topic, job.settings.topics.partitions)
    event = next(shop_events(1, USERS, 1)) | {"event_id": "of a killed bootstrap"}
    send_all(job.settings, topic, [(b"hot", json.dumps(event).encode(), {})])
    numbers = range(job.settings.topics.partitions)
    commit_offsets(job.settings, topic, group, dict.fromkeys(numbers, 1_000_000))


@pytest.fixture(scope="module")
def jobs(new_job: Callable[..., JobUnderTest], tmp_path_factory) -> Iterator[Jobs]:
    folder: Path = tmp_path_factory.mktemp("archive")
    stream = messages()
    archived = stream[: int(ARCHIVE_UNTIL * len(stream))]
    files = [folder / "1.jsonl", folder / "2.jsonl"]
    for file, part in zip(files, (archived[:700], archived[700:]), strict=True):
        file.write_bytes(b"".join(message.value + b"\n" for message in part))

    control, live = (new_job(name, job=TWO_TASKS, window=WINDOW) for name in ("control", "archive"))
    try:
        control.submit()
        control.send(stream)
        live.send(stream[int(LIVE_FROM * len(stream)) :])
        leave_topic_of_a_killed_bootstrap(live)
        report = live.run(
            "events", "bootstrap", *map(str, files), "--savepoint-dir", folder.as_uri()
        )
        live.submit("--savepoint", report["savepoint"])
        for job in (control, live):
            job.send_heartbeats(START_MS + SPAN_MS + 2 * HOUR_MS)
            job.wait_until_caught_up()
        yield Jobs(control, live, report, json.loads(archived[-1].value)["event_time"])
    finally:  # the two jobs occupy all task slots
        for job in (control, live):
            job.cancel()


class StoredRows(NamedTuple):
    """Text of all rows with # for each number with a decimal point, and these numbers."""

    count: int
    text: str
    numbers: list[str]
    curves: list[str]  # those in value curves


def rows(job: JobUnderTest, table: str) -> StoredRows:
    with open_session(job.settings.cassandra) as session:
        stored = sorted(repr(tuple(row)) for row in execute(session, f"SELECT * FROM {table}"))
    text = "\n".join(stored)
    curves = FLOAT.findall("".join(CURVES.findall(text)))
    return StoredRows(
        len(stored), FLOAT.sub("#", text), FLOAT.findall(CURVES.sub("", text)), curves
    )


def is_same(number: str, expected: str, of_curve: bool = False) -> bool:
    """Whether two numbers differ by the last digits of the model only, which depend on the batch.

    Shares are rounded to four decimals, many other values to six, and the spend of curves to two.
    """
    decimals = max(len(each.partition(".")[2]) for each in (number, expected))
    if of_curve and decimals <= 2:
        tolerance = 1.1e-2
    elif decimals <= 4:
        tolerance = 1.1e-4
    else:
        tolerance = max(2e-6, 1e-5 * abs(float(expected)))
    return abs(float(number) - float(expected)) <= tolerance


@pytest.mark.parametrize("table", TABLES)
def test_rows_are_those_of_a_job_that_has_read_everything(jobs: Jobs, table: str) -> None:
    expected, found = rows(jobs.control, table), rows(jobs.live, table)
    assert expected.count > (5 if table.startswith(("user", "risk_flag")) else 500)
    assert found.count == expected.count and found.text == expected.text
    numbers = zip(found.numbers, expected.numbers, strict=True)
    assert [pair for pair in numbers if not is_same(*pair)] == []
    curves = zip(found.curves, expected.curves, strict=True)
    assert [pair for pair in curves if not is_same(*pair, of_curve=True)] == []
    assert bool(found.curves) == (table == "user_profile")


def test_both_jobs_ran_without_restart(jobs: Jobs) -> None:
    assert (jobs.control.restarts(), jobs.live.restarts()) == (0, 0)
    assert jobs.live.late_records_dropped() == 0


def test_audit_counts_the_records_after_the_archive(jobs: Jobs) -> None:
    ranges = partition_ranges(jobs.live.settings, jobs.live.settings.topics.events)
    starts = {int(number): start for number, start in jobs.report["start_offsets"].items()}
    assert jobs.report["no_overlap"] == []
    audit = jobs.live.audit()
    assert audit["ok"] and audit["unaccounted"] == 0, audit
    assert audit["in_topic"] == sum(span.end - starts[number] for number, span in ranges.items())
    assert audit["duplicate"] > 20 and audit["late"] > 20 and audit["unknown"] > 500


def alerts(job: JobUnderTest) -> dict[str, dict[str, Any]]:
    records = read_topic(job.settings, job.settings.topics.alerts)
    return {alert["id"]: alert for alert in (json.loads(record.value or b"") for record in records)}


def test_alerts_of_the_archive_are_not_sent(jobs: Jobs) -> None:
    every, sent = alerts(jobs.control), alerts(jobs.live)
    assert sent and sent.keys() < every.keys()
    # Windows that were open at the end of the archive are closed later.
    first_ms, last_ms = jobs.archive_end_ms - HOUR_MS, jobs.archive_end_ms + HOUR_MS
    of_windows = [alert["time"] for alert in sent.values() if not alert["data"]["event_id"]]
    assert min(of_windows) > to_rfc3339(first_ms)
    not_sent = [alert["time"] for key, alert in every.items() if key not in sent]
    assert max(not_sent) < to_rfc3339(last_ms)


def test_temporary_topics_are_removed(jobs: Jobs) -> None:
    topics = jobs.live.settings.topics
    for topic in (topics.events, topics.alerts):
        with pytest.raises(NoTopicError):
            partition_ranges(jobs.live.settings, f"{topic}-bootstrap")


def test_bootstrap_is_refused_while_the_job_runs(jobs: Jobs, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text("{}\n", encoding="utf-8")
    done = jobs.live.cli("events", "bootstrap", file, ok=False)
    assert done.returncode == 3 and "is running" in done.stderr


# --- blue and green ------------------------------------------------------------------------------

# After the stream above, at a time when the regular user has a burst at the end of each part.
PARTS_START_MS, STEP_MS, PART_USERS = START_MS + 90 * HOUR_MS, 5 * MINUTE_MS, 10
PART_EVENTS = BURST_EVERY_HOURS * HOUR_MS // STEP_MS  # so that each part raises window flags
PARTS = 4
DECIMAL = re.compile(r"-?\d+\.\d+")
# Users who test a stolen card, two in a part, share nothing with other users.
TESTER_PREFIX = "tester-"


def parts() -> tuple[list[list[Message]], int]:
    """The stream in parts, with faults and card tests, and the time of its last event.

    The first card test of a part begins in the part before.
    """
    events = list(
        itertools.islice(shop_events(1, PART_USERS, STEP_MS, PARTS_START_MS), PARTS * PART_EVENTS)
    )
    parts, begun = [], list[dict[str, Any]]()
    for number in range(PARTS):
        part = events[number * PART_EVENTS : (number + 1) * PART_EVENTS]
        testers = (f"{TESTER_PREFIX}{2 * number + each}" for each in (0, 1))
        whole, split = (card_test(tester, part[-1]["event_time"]) for tester in testers)
        faulty = with_faults([*begun, *part], number, broken=0.03, late_by_ms=10 * DAY_MS)
        # As they are: two copies of one purchase would be one more.
        tests = [to_message(event) for event in [*whole, *split[:3]]]
        parts.append([*faulty.messages, *tests])
        begun = split[3:]
    return parts, events[-1]["event_time"]


def sent_once(records: Iterator[Any]) -> tuple[dict[str, Any], int]:
    """By id what was sent, and the number of records.

    Copies are equal, numbers of the model up to float32: its sums in a batch have another order.
    """
    sent: dict[str, list[str]] = defaultdict(list)
    for record in records:
        text = record.value.decode()
        sent[orjson.loads(text)["id"]].append(text)
    for first, *copies in sent.values():
        for copy in copies:
            assert DECIMAL.sub("", copy) == DECIMAL.sub("", first)
            numbers = [[float(each) for each in DECIMAL.findall(text)] for text in (copy, first)]
            assert numbers[0] == pytest.approx(numbers[1], rel=1e-6)
    events = {event_id: orjson.loads(copies[0]) for event_id, copies in sent.items()}
    return events, sum(map(len, sent.values()))


@pytest.fixture
def green(new_job: Callable[..., JobUnderTest], jobs: Jobs) -> Iterator[JobUnderTest]:
    """With the topics and the keyspace of `control`; not started. The other job has ended."""
    jobs.live.cancel()
    shared = {
        "topics": jobs.control.settings.topics.model_dump(mode="json"),
        "cassandra": {"keyspace": jobs.control.settings.cassandra.keyspace},
    }
    green = new_job("green", job=TWO_TASKS, window=WINDOW, **shared)
    yield green
    green.cancel()


def test_new_job_takes_over_without_a_gap(jobs: Jobs, green: JobUnderTest) -> None:
    blue = jobs.control
    (first, second, third, fourth), last_ms = parts()
    blue.send(first)
    blue.wait_until_caught_up()

    taken = blue.run("job", "savepoint")
    assert blue.state() == "RUNNING"
    # Blue is ahead of green, which reads these events again.
    blue.send(second)
    blue.wait_until_caught_up()
    green.submit("--savepoint", taken["savepoint"])
    blue.send(third)
    blue.wait_until_caught_up()
    green.wait_until_caught_up()
    for job in (blue, green):
        assert job.run("job", "status", ok=False)["job_id"] == job.id
    # The audit ends at the offsets that the jobs' one consumer group has committed.
    green.wait_until_committed()
    report = green.audit("--since", "1h")
    assert report["ok"] and report["open_windows"], report

    sending = threading.Thread(target=blue.send, args=(fourth,))
    sending.start()
    cancelled = blue.run("job", "cancel")
    sending.join()
    assert cancelled["job_id"] == blue.id and blue.state() == "CANCELED"
    green.send_heartbeats(closing_time_ms(last_ms, green.settings.window))
    green.wait_until_caught_up()
    green.wait_until_committed()
    assert (green.state(), green.restarts()) == ("RUNNING", 0)

    report = green.audit()
    assert report["ok"] and not report["unaccounted"], report
    comparison = compare_with_reference(green.settings)
    assert comparison.ok, comparison.as_json()
    assert comparison.job == comparison.reference
    assert_scoring(green.settings, TESTER_PREFIX, CARD_TEST_RULE)

    alerts, count = sent_once(read_topic(green.settings, green.settings.topics.alerts))
    with open_session(green.settings.cassandra) as session:
        flags = list(scan(session, "risk_flag", queries.StoredFlag))
    assert alerts.keys() == {flag.flag_id for flag in flags if flag.rule_state == "ACTIVE"}
    assert count > len(alerts)  # both jobs have sent alerts
    changes, count = sent_once(read_topic(green.settings, green.settings.topics.segment_changes))
    assert count > len(changes)
    assert_one_history(changes)


def assert_one_history(changes: dict[str, Any]) -> None:
    """Asserts that the changes of each user and segment are 1, 2, ..., in and out in turn."""
    histories: dict[tuple[str, str], list[tuple[int, int, str]]] = defaultdict(list)
    for change in changes.values():
        data = change["data"]
        histories[data["user_id"], data["segment_id"]].append((data["number"], data["change"]))
    for key, history in histories.items():
        expected = [(number + 1, ("entered", "left")[number % 2]) for number in range(len(history))]
        assert sorted(history) == expected, key
