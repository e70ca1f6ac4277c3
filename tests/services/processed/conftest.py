"""A job that has processed faults, poison messages and a replay, for the tests of this folder.

It occupies half of the task slots, so tests of jobs of their own are in other folders.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from liveprofile.units import HOUR_MS
from tests.support.job_under_test import TWO_TASKS, JobUnderTest
from tests.support.streams.seeded import Message, poison_messages, with_faults
from tests.support.streams.shop import START_MS, shop_events, with_iso_times

EVENTS = 2_000
USERS = 40
SPAN_MS = 48 * HOUR_MS
# The time span of the poison messages: they reach the model instead of being late.
OUT_OF_ORDERNESS_MS = 24 * HOUR_MS
POISON_MESSAGES = 500
REPEATED_ID = b'"event_id":123456789'
REPLAYED_EVENTS = 60
REPLAY_START_MS = START_MS + SPAN_MS + 2 * OUT_OF_ORDERNESS_MS


def stream_with_faults() -> list[Message]:
    events = itertools.islice(shop_events(7, USERS, SPAN_MS // EVENTS), EVENTS)
    # Hundreds of events of the hot user within one window.
    burst = [
        event
        | {
            "event_id": f"burst-{index}",
            "user_id": "hot",
            "event_time": START_MS + 9_000_000 + index,
        }
        for index, event in enumerate(itertools.islice(shop_events(8, USERS, 1), 400))
        if event["user_id"] != "regular"
    ]
    in_order = sorted([*events, *burst], key=lambda event: event["event_time"])
    return with_iso_times(
        with_faults(
            in_order, seed=7, late=0.02, broken=0.04, late_by_ms=10 * 24 * HOUR_MS
        ).messages,
        every=7,
    )


def poison_stream() -> list[Message]:
    """Sends the events that share an event_id with one key: duplicates must be in one partition."""
    return [
        Message(b"poisoned-1" if REPEATED_ID in (value or b"") else key, value)
        for key, value in poison_messages(POISON_MESSAGES, seed=11)
    ]


class ProcessedStream(NamedTuple):
    """A job that has read its input topic and closed and stored every window."""

    job: JobUnderTest
    records: int  # in the input topic
    replay_report: dict[str, Any]  # output of `liveprofile events replay`


@pytest.fixture(scope="package")
def processed(
    new_job: Callable[..., JobUnderTest], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ProcessedStream]:
    window = {"length_ms": HOUR_MS, "out_of_orderness_ms": OUT_OF_ORDERNESS_MS}
    job = new_job("processed", job=TWO_TASKS, window=window)
    job.submit()
    count = job.send(stream_with_faults())
    count += job.send(poison_stream())
    file = tmp_path_factory.mktemp("replay") / "events.jsonl"
    events = itertools.islice(shop_events(9, USERS, 60_000, REPLAY_START_MS), REPLAYED_EVENTS)
    file.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    replay_report = job.run("events", "replay", str(file), "--close-windows")
    count += replay_report["sent"] + replay_report["heartbeats"]
    job.wait_until_caught_up()
    yield ProcessedStream(job, count, replay_report)
    job.cancel()


@pytest.fixture(scope="package")
def job(processed: ProcessedStream) -> JobUnderTest:
    return processed.job
