"""Audits of ranges, corrections and late withdrawals while the job runs."""

from collections.abc import Mapping

import pytest

from liveprofile.kafka.offsets import partition_ranges
from liveprofile.kafka.records import read_topic
from liveprofile.storage.connection import open_session
from liveprofile.units import DAY_MS, MINUTE_MS
from liveprofile.wire.user_records import to_rfc3339
from services.event_audit.results import last_noted
from tests.services.records.conftest import OUT_OF_ORDERNESS_MS
from tests.support.job_under_test import JobUnderTest
from tests.support.streams.seeded import Message
from tests.support.streams.shop import START_MS, event_of, to_message

BASE_MS = START_MS + 30 * DAY_MS
USERS = 20
CLOSED_WINDOWS = 3
SLOW_USER = 1_000


def event(user: int, at_ms: int, event_id: str = "") -> Message:
    known_as = event_id or f"range-{user}-{at_ms}"
    return to_message(event_of(f"user-{user}", BASE_MS + at_ms, known_as))


@pytest.fixture(scope="module")
def audited(job: JobUnderTest) -> None:
    """All that was sent before has had a clean audit."""
    job.send_heartbeats(BASE_MS)
    job.wait_until_committed()
    assert job.audit("--new")["ok"]


def noted_offsets(job: JobUnderTest) -> Mapping[int, int] | None:
    with open_session(job.settings.cassandra) as session:
        last = last_noted(session, job.settings.topics.events)
    return last and last.next_offsets


def ends(job: JobUnderTest, topic: str) -> dict[int, int]:
    return {number: span.end for number, span in partition_ranges(job.settings, topic).items()}


@pytest.mark.usefixtures("audited")
def test_first_audit_leaves_open_windows_to_the_next(job: JobUnderTest) -> None:
    count = job.send(
        event(user, window * MINUTE_MS) for window in range(CLOSED_WINDOWS) for user in range(USERS)
    )
    job.send_heartbeats(BASE_MS + CLOSED_WINDOWS * MINUTE_MS + OUT_OF_ORDERNESS_MS)
    count += len(ends(job, job.settings.topics.events))
    first_open = ends(job, job.settings.topics.events)
    count += job.send(event(user, CLOSED_WINDOWS * MINUTE_MS) for user in range(USERS))
    job.wait_until_committed()
    report = job.audit("--new")
    assert report["ok"], report
    assert (report["in_topic"], report["used"]) == (count, USERS * CLOSED_WINDOWS)
    assert report["unaccounted"] == report["open_windows"] == USERS
    assert noted_offsets(job) == first_open


@pytest.mark.usefixtures("audited")
def test_next_audit_classifies_by_records_before_its_range(job: JobUnderTest) -> None:
    copies = job.send(event(user, 0) for user in range(USERS))
    late = job.send([event(1, 7)])
    broken = job.send([Message(b"key", b"{")])
    job.send_heartbeats(BASE_MS + (CLOSED_WINDOWS + 2) * MINUTE_MS)
    job.wait_until_committed()
    report = job.audit("--new")
    assert report["ok"], report
    counts = tuple(report[name] for name in ("used", "duplicate", "late", "rejected"))
    assert counts == (USERS, copies, late, broken)
    assert report["open_windows"] == report["unaccounted"] == 0
    assert noted_offsets(job) == ends(job, job.settings.topics.events)
    assert job.audit("--new")["in_topic"] == 0


def test_corrected_event_is_neither_late_nor_unaccounted(job: JobUnderTest) -> None:
    first, last = 10 * MINUTE_MS, 11 * MINUTE_MS
    job.send([event(SLOW_USER, first + 5), event(SLOW_USER, last)])
    job.send_heartbeats(BASE_MS + 13 * MINUTE_MS)
    job.wait_until_committed()
    # One in a window that is stored, one in a window of its own.
    job.send([event(SLOW_USER, first + 7), event(SLOW_USER, first - MINUTE_MS)])
    job.send_heartbeats(BASE_MS + 14 * MINUTE_MS)
    job.wait_until_committed()
    before = job.audit("--since", "1h")
    assert before["ok"], before

    result = job.run("events", "recompute-late")
    assert (result["incomplete"], result["late_events"]) == (0, before["late"])
    assert result["windows"] >= 3
    after = job.audit("--since", "1h")
    assert after["ok"], after
    assert (after["late"], after["corrected"]) == (0, before["late"])
    assert after["used"] == before["used"]
    deltas = job.run("profile", "deltas", f"user-{SLOW_USER}")
    totals = [(delta["events"], delta["delta"]["after"]["events"]) for delta in deltas]
    assert totals == [(1, 4.0), (2, 3.0), (1, 1.0)]
    assert job.run("profile", "show", f"user-{SLOW_USER}")["events_total"] == 4


def test_late_withdrawal_rejects_and_deletes_its_windows(job: JobUnderTest) -> None:
    user = "user-3"
    withdraw = ("set", user, "--withdraw", "profiling", "--time", to_rfc3339(BASE_MS - MINUTE_MS))
    job.run("privacy", "consent", *withdraw)
    of_another = job.run("profile", "deltas", "user-4")
    backwards = ("privacy", "consent", "backwards", user, "--days", "10000")
    found = job.run(*backwards, ok=False)
    assert (found["rows"]["profile_delta"], found["deleted"]) == (CLOSED_WINDOWS + 1, False)
    assert job.run(*backwards, "--delete")["rows"] == found["rows"]
    assert "consents forbid no stored row" in job.cli(*backwards).stdout
    assert "no profile" in job.cli("profile", "show", user, ok=False).stderr
    rejected = [
        (record.key, record.value)
        for record in read_topic(job.settings, job.settings.topics.rejected)
        if record.headers["reason"] == b"NO_CONSENT"
    ]
    copies = 1  # that the test of the next audit sends of this user
    assert rejected == [(user.encode(), b"")] * (CLOSED_WINDOWS + 1 + copies)
    report = job.audit("--since", "1h")
    assert report["ok"], report
    assert job.run("profile", "deltas", "user-4") == of_another
