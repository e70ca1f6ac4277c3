"""A job hands over to another: from an archive (bootstrap), and from a job that goes on meanwhile.

The first job, `blue`, goes on from an archive. The stream has duplicates and late events before and
after the end of the archive, and the live topic holds the last tenth of the archive too. Then
`green` starts from a savepoint of `blue`, which goes on, and writes the same keyspace and topics;
it has two tasks for each one of `blue`. Everything must equal the reference's, as if one job had
read the archive and the topic; alerts and segment changes that both have sent have the same ids and
content.
"""

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

from intake.files.replay import closing_time_ms
from liveprofile.kafka.offsets import bootstrap_group, commit_offsets, partition_ranges
from liveprofile.kafka.records import read_topic, send_all
from liveprofile.kafka.topics import NoTopicError, create_unlimited_topic
from liveprofile.storage import queries
from liveprofile.storage.connection import open_session
from liveprofile.storage.cql import now_ms
from liveprofile.units import DAY_MS, HOUR_MS, MINUTE_MS
from liveprofile.wire.user_records import to_rfc3339
from tests.reference.windows import Record
from tests.support.compare import Archive, compare_with_reference
from tests.support.compare_profiles import scan
from tests.support.compare_scoring import assert_scoring
from tests.support.job_under_test import TWO_TASKS, JobUnderTest
from tests.support.shop_model import save_shop_model
from tests.support.streams.seeded import Message, with_faults
from tests.support.streams.shop import (
    BURST_EVERY_HOURS,
    START_MS,
    card_test,
    shop_events,
    to_message,
)

EVENTS, USERS, SPAN_MS = 1_800, 30, 60 * HOUR_MS
WINDOW = {"length_ms": HOUR_MS, "out_of_orderness_ms": HOUR_MS // 2}
ARCHIVE_UNTIL, LIVE_FROM = 0.6, 0.5


def shop(seed: int, users: int, step_ms: int, start_ms: int = START_MS) -> Iterator[dict[str, Any]]:
    """Users share no coupon and no place: the order of two partitions changes from run to run."""
    for event in shop_events(seed, users, step_ms, start_ms):
        yield event | {"coupon_id": None, "place": None}


def messages() -> list[Message]:
    events = itertools.islice(shop(21, USERS, SPAN_MS // EVENTS), EVENTS)
    stream = with_faults(events, 21, duplicates=0.06, late=0.06, broken=0.0, late_by_ms=2 * DAY_MS)
    return stream.messages


class Bootstrapped(NamedTuple):
    job: JobUnderTest
    report: dict[str, Any]  # output of `liveprofile events bootstrap`
    archive: Archive
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
def model(tmp_path_factory) -> dict[str, str]:
    return {"checkpoint": str(save_shop_model(tmp_path_factory.mktemp("model")))}


@pytest.fixture(scope="module")
def blue(new_job: Callable[..., JobUnderTest], tmp_path_factory, model) -> Iterator[Bootstrapped]:
    """Has read the archive and the topic."""
    folder: Path = tmp_path_factory.mktemp("archive")
    stream = messages()
    archived = stream[: int(ARCHIVE_UNTIL * len(stream))]
    files = [folder / "1.jsonl", folder / "2.jsonl"]
    for file, part in zip(files, (archived[:700], archived[700:]), strict=True):
        file.write_bytes(b"".join(message.value + b"\n" for message in part))

    job = new_job("archive", window=WINDOW, model=model)
    job.send(stream[int(LIVE_FROM * len(stream)) :])
    leave_topic_of_a_killed_bootstrap(job)
    report = job.run("events", "bootstrap", *map(str, files), "--savepoint-dir", folder.as_uri())
    job.submit("--savepoint", report["savepoint"])
    job.send_heartbeats(START_MS + SPAN_MS + 2 * HOUR_MS)
    job.wait_until_caught_up()
    sent = read_topic(job.settings, job.settings.topics.events)
    partitions = {record.key: record.partition for record in sent}
    records = [
        Record(partitions[message.key], number - len(archived), now_ms(), *message)
        for number, message in enumerate(archived)
    ]
    starts = {int(number): start for number, start in report["start_offsets"].items()}
    end_ms = json.loads(archived[-1].value)["event_time"]
    # Windows that were open at the end of the archive are closed later.
    archive = Archive(records, starts, silent_until_ms=end_ms + HOUR_MS)
    yield Bootstrapped(job, report, archive, end_ms)
    job.cancel()


def test_audit_counts_the_records_after_the_archive(blue: Bootstrapped) -> None:
    ranges = partition_ranges(blue.job.settings, blue.job.settings.topics.events)
    assert blue.report["no_overlap"] == []
    audit = blue.job.audit()
    assert audit["ok"] and audit["unaccounted"] == 0, audit
    starts = blue.archive.starts
    assert audit["in_topic"] == sum(span.end - starts[number] for number, span in ranges.items())
    assert audit["duplicate"] > 20 and audit["late"] > 20 and audit["unknown"] > 500
    assert (blue.job.restarts(), blue.job.late_records_dropped()) == (0, 0)


def test_alerts_of_the_archive_are_not_sent(blue: Bootstrapped) -> None:
    topic = blue.job.settings.topics.alerts
    sent = [json.loads(record.value or b"") for record in read_topic(blue.job.settings, topic)]
    of_windows = [alert["time"] for alert in sent if not alert["data"]["event_id"]]
    assert min(of_windows) > to_rfc3339(blue.archive_end_ms - HOUR_MS)
    with open_session(blue.job.settings.cassandra) as session:
        flags = list(scan(session, "risk_flag", queries.StoredFlag))
    assert min(flag.window_end_ms for flag in flags) < blue.archive_end_ms - HOUR_MS


def test_temporary_topics_are_removed(blue: Bootstrapped) -> None:
    topics = blue.job.settings.topics
    for topic in (topics.events, topics.alerts):
        with pytest.raises(NoTopicError):
            partition_ranges(blue.job.settings, f"{topic}-bootstrap")


def test_bootstrap_is_refused_while_the_job_runs(blue: Bootstrapped, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text("{}\n", encoding="utf-8")
    done = blue.job.cli("events", "bootstrap", file, ok=False)
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
        itertools.islice(shop(1, PART_USERS, STEP_MS, PARTS_START_MS), PARTS * PART_EVENTS)
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
def green(
    new_job: Callable[..., JobUnderTest], blue: Bootstrapped, model
) -> Iterator[JobUnderTest]:
    """With the topics and the keyspace of `blue`; not started."""
    shared = {
        "topics": blue.job.settings.topics.model_dump(mode="json"),
        "cassandra": {"keyspace": blue.job.settings.cassandra.keyspace},
    }
    green = new_job("green", job=TWO_TASKS, window=WINDOW, model=model, **shared)
    # Its audit reads where the archive ends from its own group, to which no bootstrap committed.
    group, topic = bootstrap_group(green.settings.kafka), green.settings.topics.events
    commit_offsets(green.settings, topic, group, dict(blue.archive.starts))
    yield green
    green.cancel()


def test_new_job_takes_over_without_a_gap(blue: Bootstrapped, green: JobUnderTest) -> None:
    first_job, archive = blue.job, blue.archive
    (first, second, third, fourth), last_ms = parts()
    first_job.send(first)
    first_job.wait_until_caught_up()

    taken = first_job.run("job", "savepoint")
    assert first_job.state() == "RUNNING"
    # Blue is ahead of green, which reads these events again.
    first_job.send(second)
    first_job.wait_until_caught_up()
    green.submit("--savepoint", taken["savepoint"])
    first_job.send(third)
    first_job.wait_until_caught_up()
    green.wait_until_caught_up()
    for job in (first_job, green):
        assert job.run("job", "status", ok=False)["job_id"] == job.id
    # The audit ends at the offsets that the jobs' one consumer group has committed.
    green.wait_until_committed()
    report = green.audit("--since", "1h")
    assert report["ok"] and report["open_windows"], report

    sending = threading.Thread(target=first_job.send, args=(fourth,))
    sending.start()
    cancelled = first_job.run("job", "cancel")
    sending.join()
    assert cancelled["job_id"] == first_job.id and first_job.state() == "CANCELED"
    green.send_heartbeats(closing_time_ms(last_ms, green.settings.window))
    green.wait_until_caught_up()
    green.wait_until_committed()
    assert (green.state(), green.restarts()) == ("RUNNING", 0)

    report = green.audit()
    assert report["ok"] and not report["unaccounted"], report
    comparison = compare_with_reference(green.settings, archive=archive)
    assert comparison.ok, comparison.as_json()
    assert comparison.job == comparison.reference
    assert comparison.job["windows"] > 1_000 and comparison.job["flags"] > 5, comparison.job
    assert_scoring(green.settings, "", archive=archive)

    alerts, count = sent_once(read_topic(green.settings, green.settings.topics.alerts))
    assert count > len(alerts)  # both jobs have sent alerts
    changes, count = sent_once(read_topic(green.settings, green.settings.topics.segment_changes))
    assert count > len(changes)
    assert_one_history(changes)


def assert_one_history(changes: dict[str, Any]) -> None:
    """Asserts that the numbers of each user and segment follow each other, in and out in turn.

    Those of the archive, which come first, were not sent.
    """
    histories: dict[tuple[str, str], list[tuple[int, int, str]]] = defaultdict(list)
    for change in changes.values():
        data = change["data"]
        histories[data["user_id"], data["segment_id"]].append((data["number"], data["change"]))
    for key, history in histories.items():
        numbers = range(min(history)[0], min(history)[0] + len(history))
        assert sorted(history) == [(n, ("left", "entered")[n % 2]) for n in numbers], key
