"""The real job on the real stack: a mixed stream, then poison; all of it equals the reference.

State left: one job that ran once without a restart, every window closed, every record accounted for.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from liveprofile import kafka
from tests.compare import compare
from tests.live import Job
from tests.reference_check import REASONS
from tests.shop import HOUR_MS, START_MS, visits, with_iso_times
from tests.streams_seeded import Message, mixed, poison

pytestmark = pytest.mark.services

EVENTS = 3_000
USERS = 40
SPAN_MS = 48 * HOUR_MS
# As long as the poison's times are scattered, so that it gets to the model instead of being late.
OUT_OF_ORDERNESS_MS = 24 * HOUR_MS
POISON = 1_000
END_MS = START_MS + SPAN_MS + 2 * OUT_OF_ORDERNESS_MS


def shop_stream() -> list[Message]:
    events = itertools.islice(visits(7, USERS, SPAN_MS // EVENTS), EVENTS)
    # The hot user's rush: hundreds of events within one window.
    rush = [
        event | {"event_id": f"rush-{index}", "user_id": "hot", "event_time": START_MS + 9_000_000 + index}
        for index, event in enumerate(itertools.islice(visits(8, USERS, 1), 400))
        if event["user_id"] != "regular"
    ]
    in_order = sorted([*events, *rush], key=lambda event: event["event_time"])
    return with_iso_times(mixed(in_order, seed=7, late_by_ms=10 * 24 * HOUR_MS).messages, every=7)


def poison_stream() -> list[Message]:
    """An event_id that a text repeats stays in one partition: there the first copy is the first."""
    return [
        message._replace(key=b"poisoned-1") if b"12345678901234567890" in (message.value or b"") else message
        for message in poison(POISON, seed=11)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def job(new_job: Callable[..., Job]) -> Iterator[Job]:
    job = new_job(
        "shop", window={"length_ms": HOUR_MS, "out_of_orderness_ms": OUT_OF_ORDERNESS_MS}
    )
    job.submit()
    yield job
    job.cancel()


@pytest.fixture(scope="module")
def sent(job: Job) -> int:
    """All records are in, the last windows are closed and stored."""
    count = job.send(shop_stream())
    count += job.send(poison_stream())
    job.heartbeats(END_MS)
    job.wait_until_caught_up()
    return count + job.settings.topics.partitions


def test_everything_equals_the_reference(job: Job, sent: int) -> None:
    found = compare(job.settings)
    assert found.ok, found.as_json()
    assert found.job == found.reference
    assert found.job["records"] == sent
    assert found.job["late"] > 20 and found.job["windows"] > 500 and found.job["flags"] > 1


def test_the_job_never_stopped(job: Job, sent: int) -> None:
    assert (job.state(), job.restarts(), job.failure()) == ("RUNNING", 0, "")


def test_every_record_is_accounted_for(job: Job, sent: int) -> None:
    account = job.audit()
    assert account["ok"] and account["unaccounted"] == 0, account
    assert account["in_topic"] == sent
    ways = ("heartbeats", "used", "duplicate", "late", "rejected")
    assert sum(account[way] for way in ways) == sent
    assert all(account[way] for way in ways)


def test_every_reason_was_given(job: Job, sent: int) -> None:
    rejected = kafka.read_topic(job.settings, job.settings.topics.rejected)
    reasons = Counter(record.headers["reason"].decode() for record in rejected)
    assert set(reasons) >= set(REASONS)
    assert not reasons["SCORING_FAILED"] and not reasons["UNREADABLE"], reasons
