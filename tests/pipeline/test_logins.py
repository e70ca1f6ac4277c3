"""Users with two anonymous ids each, merged at login, against the same stream with one id.

`liveprofile identity link-logins` reads the events that the job reads. After a correction the
tables are those of the stream with one id a user.
"""

from __future__ import annotations

import random
from itertools import islice
from typing import Any
from uuid import UUID

import pytest

from liveprofile.identity.merges import IdentityTable, Merge
from liveprofile.kafka.records import Record
from liveprofile.settings import load
from liveprofile.units import DAY_MS
from tests.pipeline.test_corrections import EVENTS, STEP_MS, to_records, with_delays
from tests.pipeline.test_merges import MergedStream, assert_equals_one_id, merged_stream_of
from tests.support.memory.login_topics import MemoryKafka, opened, run_to_end
from tests.support.streams.shop import HOT_USER, REGULAR_USER, START_MS, shop_events

pytestmark = pytest.mark.pipeline

Event = dict[str, Any]

OTHER_USERS = 18  # besides the hot and the regular one
# A tenth of the users, one of them with 15 % of the events. Each has two devices.
DEVICES = {
    HOT_USER: (str(UUID(int=1)), str(UUID(int=2))),
    "user-3": (str(UUID(int=3)), str(UUID(int=4))),
}
LOGINS_MS = (START_MS + EVENTS // 4 * STEP_MS, START_MS + EVENTS // 2 * STEP_MS)  # of a device
MERGED_MS = START_MS + EVENTS * 5 // 8 * STEP_MS
LOGGED_OUT = 0.2  # share of the events of a device after its login that are anonymous again


def shop_stream() -> list[Event]:
    events = list(islice(shop_events(11, OTHER_USERS, STEP_MS), EVENTS))
    return [
        *events,
        {"event_type": "heartbeat", "event_time": events[-1]["event_time"] + 10 * DAY_MS},
    ]


def with_anonymous_ids(events: list[Event]) -> list[Event]:
    """What the devices send: anonymous before the login, then with both ids."""
    rng = random.Random(11)
    sent = []
    for event in events:
        if devices := DEVICES.get(event.get("user_id", "")):
            device = rng.randrange(2)
            is_logged_in = event["event_time"] >= LOGINS_MS[device]
            if is_logged_in and rng.random() >= LOGGED_OUT:
                event = event | {"anonymous_id": devices[device]}
            else:
                event = event | {"user_id": devices[device]}
        sent.append(event)
    return sent


def merged_by_logins(events: list[Event]) -> IdentityTable:
    """What `liveprofile identity link-logins` writes of this stream."""
    settings = load(merges={"enabled": True, "delay_ms": 0})
    records = [
        Record("behavior-events", *record[:3], record.key, record.value, {})
        for record in to_records(with_delays(events))
    ]
    kafka = MemoryKafka(records, 1, random.Random(11))
    run_to_end(kafka, opened(kafka, settings, MERGED_MS))
    return kafka.table()


@pytest.fixture(scope="module")
def logins(tmp_path_factory: pytest.TempPathFactory) -> MergedStream:
    events = shop_stream()
    sent = with_anonymous_ids(events)
    folder = tmp_path_factory.mktemp("logins")
    return merged_stream_of(sent, events, merged_by_logins(sent), folder)


def test_each_device_is_an_alias_of_the_account_that_logged_in(logins: MergedStream) -> None:
    found = {alias: logins.merges.merges(alias) for alias in logins.merges.aliases()}
    assert found == {
        device: (Merge(user, MERGED_MS),) for user, devices in DEVICES.items() for device in devices
    }


def test_corrected_tables_equal_those_of_users_with_one_id(logins: MergedStream) -> None:
    aliases = set(logins.merges.aliases())
    before = logins.late.output.sink
    users = {user for user, _ in before.deltas}
    assert users > aliases and len(users - aliases) >= OTHER_USERS
    assert {HOT_USER, REGULAR_USER} <= users
    length_ms = logins.late.settings.window.length_ms
    ends_ms = [end_ms for user, end_ms in before.deltas if user in aliases]
    assert len(ends_ms) > 20 and all(end_ms - length_ms < MERGED_MS for end_ms in ends_ms)

    stored = logins.late.tables()
    counts = logins.late.correct(stored)
    assert_equals_one_id(logins, stored)
    assert (counts.merged, counts.incomplete) == (len(aliases), 0)
    assert counts.late_events > 0.02 * EVENTS
