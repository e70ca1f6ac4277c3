"""A job that goes on from an archive stores what a job stores that has read everything.

The stream has duplicates and late events, before and after the end of the archive. The live topic
holds the last tenth of the archive too. Final state: both jobs ran without a restart, every window
is closed, and the temporary topics are gone.

All columns of all rows are compared.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from liveprofile.alerts.cloud_events import to_rfc3339
from liveprofile.kafka.offsets import bootstrap_group, commit_offsets, partition_ranges
from liveprofile.kafka.records import read_topic, send_all
from liveprofile.kafka.topics import NoTopicError, create_unlimited_topic
from liveprofile.storage.connection import open_session
from liveprofile.storage.cql import execute
from liveprofile.units import DAY_MS, HOUR_MS
from tests.support.job_under_test import BUSY_JOB, JobUnderTest, run_cli
from tests.support.streams.seeded import Message, with_faults
from tests.support.streams.shop import START_MS, shop_events

pytestmark = pytest.mark.services

EVENTS, USERS, SPAN_MS = 6_000, 40, 4 * DAY_MS
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
    stream = with_faults(events, 21, duplicates=0.03, late=0.03, broken=0.0, late_by_ms=2 * DAY_MS)
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
    for file, part in zip(files, (archived[:1_000], archived[1_000:]), strict=True):
        file.write_bytes(b"".join(message.value + b"\n" for message in part))

    control, live = (new_job(name, job=BUSY_JOB, window=WINDOW) for name in ("control", "archive"))
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
    assert expected.count > (20 if table.startswith(("user", "risk_flag")) else 1_500)
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
    assert audit["duplicate"] > 20 and audit["late"] > 20 and audit["unknown"] > 2_000


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
    done = run_cli("events", "bootstrap", file, "--config", jobs.live.config_file, ok=False)
    assert done.returncode == 3 and "is running" in done.stderr
