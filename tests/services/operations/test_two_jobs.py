"""Two jobs at the same time (docs/operate.md): a new job takes over from an old one, no gap.

The new job starts from a savepoint of the old one, which goes on, and writes the same keyspace and
topics. Final state: everything equals the reference's, as if one job had read the topic; alerts and
segment changes that both jobs sent have the same ids and content.
"""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import orjson
import pytest

from liveprofile.ingest.replay import closing_time_ms
from liveprofile.kafka.records import read_topic
from liveprofile.storage import queries
from liveprofile.storage.connection import open_session
from liveprofile.units import DAY_MS, HOUR_MS, MINUTE_MS
from tests.support.compare import compare_with_reference
from tests.support.compare_profiles import scan
from tests.support.compare_scoring import assert_scoring
from tests.support.job_under_test import BUSY_JOB, JobUnderTest
from tests.support.streams.seeded import Message, with_faults
from tests.support.streams.shop import BURST_EVERY_HOURS, shop_events, to_message

pytestmark = pytest.mark.services

WINDOW = {"length_ms": HOUR_MS, "out_of_orderness_ms": 10 * MINUTE_MS}
STEP_MS, USERS = 5 * MINUTE_MS, 10
PART_EVENTS = BURST_EVERY_HOURS * HOUR_MS // STEP_MS  # so that each part raises window flags
PARTS = 4
# Users who test a stolen card, two in a part, share nothing with other users.
TESTER_PREFIX, TESTER_RULE, TESTER_PURCHASES = "tester-", "card_testing", 5


class TwoJobs(NamedTuple):
    blue: JobUnderTest
    green: JobUnderTest  # with the topics and the keyspace of blue; not started


@pytest.fixture
def jobs(new_job: Callable[..., JobUnderTest]) -> Iterator[TwoJobs]:
    blue = new_job("blue", job=BUSY_JOB, window=WINDOW)
    shared = {
        "topics": blue.settings.topics.model_dump(mode="json"),
        "cassandra": {"keyspace": blue.settings.cassandra.keyspace},
    }
    green = new_job("green", job=BUSY_JOB, window=WINDOW, **shared)
    blue.submit()
    yield TwoJobs(blue, green)
    blue.cancel()
    green.cancel()


def card_test(number: int, time_ms: int) -> list[dict[str, Any]]:
    user_id = f"{TESTER_PREFIX}{number}"
    return [
        {
            "event_id": f"{user_id}-{purchase}",
            "user_id": user_id,
            "event_type": "purchase",
            "event_time": time_ms + purchase,
            "amount": 1.0,
            "device_id": f"device-{user_id}",
        }
        for purchase in range(TESTER_PURCHASES)
    ]


def parts() -> tuple[list[list[Message]], int]:
    """The stream in parts, with faults and card tests, and the time of its last event.

    The first card test of a part begins in the part before.
    """
    events = list(itertools.islice(shop_events(1, USERS, STEP_MS), PARTS * PART_EVENTS))
    parts, begun = [], list[dict[str, Any]]()
    for number in range(PARTS):
        part = events[number * PART_EVENTS : (number + 1) * PART_EVENTS]
        whole, split = (card_test(2 * number + each, part[-1]["event_time"]) for each in (0, 1))
        faulty = with_faults([*begun, *part], number, broken=0.03, late_by_ms=10 * DAY_MS)
        # As they are: two copies of one purchase would be one more.
        tests = [to_message(event) for event in [*whole, *split[:3]]]
        parts.append([*faulty.messages, *tests])
        begun = split[3:]
    return parts, events[-1]["event_time"]


def sent_once(records: Iterator[Any]) -> tuple[dict[str, Any], int]:
    """By id what was sent, without the time of sending, and the number of records."""
    sent: dict[str, list[Any]] = defaultdict(list)
    for record in records:
        event = orjson.loads(record.value)
        sent[event["id"]].append(event)
    for copies in sent.values():
        assert all(copy == copies[0] for copy in copies), copies
    return {event_id: copies[0] for event_id, copies in sent.items()}, sum(map(len, sent.values()))


def test_new_job_takes_over_without_a_gap(jobs: TwoJobs) -> None:
    blue, green = jobs
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
    for job in jobs:
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
    assert_scoring(green.settings, TESTER_PREFIX, TESTER_RULE)

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
