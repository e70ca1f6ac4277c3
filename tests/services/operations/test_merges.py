"""A job that follows merges: later events of an alias, a correction, and the audit."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from liveprofile.ingest.translation import parse_time_ms
from liveprofile.storage import queries
from liveprofile.storage.connection import open_session
from liveprofile.units import SECOND_MS
from tests.support.job_under_test import JobUnderTest
from tests.support.streams.seeded import Message

pytestmark = pytest.mark.services

WINDOW = {"length_ms": 2 * SECOND_MS, "out_of_orderness_ms": 500}
IDS = ("person", "alias")
EARLIER, LATER, STEP_MS = 40, 10, 500


class MergedJob(NamedTuple):
    job: JobUnderTest
    since_ms: int  # when the merge counts


@pytest.fixture
def merged(new_job: Callable[..., JobUnderTest]) -> Iterator[MergedJob]:
    """A job whose workers find the merge when they start."""
    job = new_job("merges", window=WINDOW, merges={"enabled": True, "delay_ms": 0})
    try:
        sent = job.run("identity", "merge", "alias", "person")
        job.submit()
        yield MergedJob(job, parse_time_ms(sent["since"]) or 0)
    finally:
        job.cancel()


def messages(count: int, start_ms: int) -> Iterator[Message]:
    """Purchases of both ids in turn."""
    for number in range(count):
        user_id = IDS[number % 2]
        event = {
            "event_id": f"{start_ms}-{number}",
            "user_id": user_id,
            "event_type": "purchase",
            "event_time": start_ms + number * STEP_MS,
            "amount": 5,
        }
        yield Message(user_id.encode(), json.dumps(event).encode())


def test_profiles_of_two_ids_become_one(merged: MergedJob) -> None:
    job, since_ms = merged
    job.send(messages(EARLIER, since_ms - 2 * EARLIER * STEP_MS))
    job.send(messages(LATER, since_ms))
    # Windows close by the broker's clock.
    ended_ms = since_ms + LATER * STEP_MS + 2 * WINDOW["length_ms"]
    time.sleep(max(0.0, ended_ms / SECOND_MS - time.time()))
    job.send_heartbeats(round(time.time() * SECOND_MS))
    job.wait_until_caught_up()
    job.wait_until_committed()

    with open_session(job.settings.cassandra) as session:
        of_alias = queries.deltas(session, "alias")
        assert sum(delta.events for delta in of_alias) == EARLIER // 2
        assert all(delta.window_end_ms < since_ms for delta in of_alias)
        assert queries.profile(session, "person").events_total == EARLIER // 2 + LATER
        assert len(queries.scores(session, "person")) == EARLIER // 2 + LATER

    counts = job.run("events", "recompute-late")
    assert (counts["merged"], counts["incomplete"], counts["late_events"]) == (1, 0, 0)
    with open_session(job.settings.cassandra) as session:
        assert queries.profile(session, "alias") is None
        assert not queries.deltas(session, "alias")
        deltas = queries.deltas(session, "person")
        assert sum(delta.events for delta in deltas) == EARLIER + LATER
        assert deltas[0].correction == "MERGED"
        assert queries.profile(session, "person").events_total == EARLIER + LATER
    audit = job.audit()
    assert audit["ok"] and audit["used"] == EARLIER + LATER
    assert (job.state(), job.restarts()) == ("RUNNING", 0)
