"""Audits of a job that has lost a row, or does not run."""

from liveprofile.storage.connection import open_session
from liveprofile.storage.cql import from_ms, now_ms
from liveprofile.units import MINUTE_MS
from services.event_audit.results import AuditResult, store_result
from tests.services.records.test_ranges import BASE_MS, event, noted_offsets
from tests.support.job_under_test import JobUnderTest


def test_the_next_audit_covers_the_records_of_a_failed_one(job: JobUnderTest) -> None:
    before = noted_offsets(job)
    with open_session(job.settings.cassandra) as session:
        session.execute(
            "DELETE FROM profile_delta WHERE user_id = %s AND window_end = %s",
            ("user-0", from_ms(BASE_MS + MINUTE_MS)),
        )
    report = job.audit("--since", "1h", "--new")
    # The event and its copy.
    assert (report["ok"], report["unaccounted"], report["open_windows"]) == (False, 2, 0)
    assert noted_offsets(job) == before
    newest = job.audit("--since", "2100-01-01", "--new")
    assert (newest["ok"], newest["in_topic"]) == (True, 0)


def test_offsets_beyond_the_topic_are_refused(job: JobUnderTest) -> None:
    topic = job.settings.topics.events
    with open_session(job.settings.cassandra) as session:
        store_result(session, topic, AuditResult(now_ms(), True, {}, {0: 10**6}), ttl_s=60)
    done = job.cli("events", "audit", "--new", ok=False)
    assert done.returncode == 3
    assert f"the last audit stopped at offset 1000000 of {topic}/0" in done.stderr


def test_records_that_the_job_has_not_read_are_behind(job: JobUnderTest) -> None:
    job.cancel()
    count = job.audit("--since", "1h")["in_topic"]
    job.send([event(1, 8), event(2, 8)])
    report = job.audit("--since", "1h")
    assert (report["in_topic"], report["behind"]) == (count, 2)
