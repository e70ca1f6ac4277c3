"""Partitions whose event times differ: alignment, and heartbeats for a quiet one.

Final state: the output for these records and those of test_hostile_clients is the reference's.
"""

import time

from liveprofile.units import DAY_MS, MINUTE_MS
from tests.support.compare import compare_with_reference
from tests.support.job_under_test import JobUnderTest
from tests.support.streams.seeded import Message
from tests.support.streams.shop import START_MS, event_of, to_message
from tests.support.waiting import until

BASE_MS = START_MS + 2 * DAY_MS
EVENTS = 200
ALIGNED_S = 5.0  # alignment is checked once a second
HEARTBEAT_TIMEOUT_S = 120.0


def events(first_minute: int) -> list[Message]:
    """Views of one user, so of one partition, within two hours."""
    start_ms = BASE_MS + first_minute * MINUTE_MS
    return [to_message(event_of("ahead", start_ms + number * 36_000)) for number in range(EVENTS)]


def test_partition_waits_for_quiet_ones_until_their_heartbeat(job: JobUnderTest) -> None:
    job.send_heartbeats(BASE_MS)  # a partition that never had a record holds no other back
    job.send(events(0))
    until(lambda: not job.unread(), HEARTBEAT_TIMEOUT_S)  # read before the first check
    time.sleep(ALIGNED_S)
    job.send(events(120))
    until(lambda: job.unread() <= EVENTS, HEARTBEAT_TIMEOUT_S)  # scoring reads all
    time.sleep(ALIGNED_S)
    assert job.unread() == EVENTS  # the profile pipeline waits
    job.send_heartbeats(BASE_MS + DAY_MS)
    job.wait_until_caught_up()
    comparison = compare_with_reference(job.settings)
    assert comparison.ok and comparison.job == comparison.reference, comparison.as_json()
    assert job.audit()["ok"]
    assert (job.state(), job.restarts(), job.failure()) == ("RUNNING", 0, "")
