"""A job that follows merges: later events of an alias, a correction, and the audit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from liveprofile.storage import queries
from liveprofile.storage.connection import open_session
from tests.services.live.conftest import WINDOW, LiveJob
from tests.support.streams.seeded import Message
from tests.support.streams.shop import event_of, to_message

pytestmark = pytest.mark.services

IDS = ("person", "alias")
EARLIER, LATER, STEP_MS = 40, 10, 500


def messages(count: int, start_ms: int) -> Iterator[Message]:
    """Purchases of both ids in turn."""
    for number in range(count):
        user_id, time_ms = IDS[number % 2], start_ms + number * STEP_MS
        yield to_message(event_of(user_id, time_ms, kind="purchase", amount=5))


def test_profiles_of_two_ids_become_one(live_job: LiveJob) -> None:
    job, since_ms = live_job
    job.send(messages(EARLIER, since_ms - 2 * EARLIER * STEP_MS))
    job.send(messages(LATER, since_ms))
    # All of this is in the past: the job has run for longer, and no window waits for the clock.
    job.send_heartbeats(since_ms + LATER * STEP_MS + 2 * WINDOW["length_ms"])
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
    assert job.audit()["ok"]
