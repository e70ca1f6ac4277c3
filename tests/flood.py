"""Sends a flood of events of one user in one window, beside normal users.

    python -m tests.flood --events 1000000

Every 50th event of the flood is scored too, a scored one costs more than all others. Passes if the
job ran without a restart and within its memory, the audit accounts for every record, every event
that is to be scored has a score, and all stored and sent data equals the reference, of the flooding
user and of the normal ones.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from liveprofile.ingest.replay import closing_time_ms
from liveprofile.storage.connection import open_session
from stack.local import Stack
from tests.support.compare_scoring import assert_consistent, read_stored_scoring, sent_events
from tests.support.job_under_test import JobUnderTest, job_on_own_stack
from tests.support.outcome import end_job
from tests.support.progress import say
from tests.support.streams.seeded import Message
from tests.support.streams.shop import START_MS, shop_events, to_message

CATCH_UP_TIMEOUT_S = 3_600.0
WINDOW_MS = 300_000
NORMAL_USERS, NORMAL_EVENTS = 1_000, 10_000
WINDOWS = 4  # that the normal users' events are spread over
FLOODED_WINDOW = 1
SCORED_EVERY = 50
# Which of its tokens so large a window keeps depends on the order of arrival. With few items the
# user's next items do not.
ITEMS = 10
SAMPLE_S = 1.0
# flink-conf/config.yaml: a TaskManager, and two Python workers in each of two slots.
MEMORY_MB = 3_584 + 2 * (840 + 350)


def normal_events() -> list[dict[str, Any]]:
    step_ms = WINDOWS * WINDOW_MS // NORMAL_EVENTS
    return list(itertools.islice(shop_events(5, NORMAL_USERS, step_ms), NORMAL_EVENTS))


def flood(events: int) -> Iterator[dict[str, Any]]:
    """All within one window, in order."""
    window_ms = START_MS - START_MS % WINDOW_MS + FLOODED_WINDOW * WINDOW_MS
    for number in range(events):
        yield {
            "event_id": f"flood-{number}",
            "user_id": "bot",
            "event_type": "view" if number % SCORED_EVERY else "purchase",
            "event_time": window_ms + number * WINDOW_MS // events,
            "item_id": f"item-{number % ITEMS}",
            "amount": 1.0,
            "device_id": "bot",
        }


def messages(events: int) -> Iterator[Message]:
    """The flood among the events of the normal users, in order of time."""
    merged = sorted(
        itertools.chain(normal_events(), flood(events)), key=lambda event: event["event_time"]
    )
    return map(to_message, merged)


@contextmanager
def peak_memory(stack: Stack) -> Iterator[dict[str, float]]:
    """Yields the largest resident memory of each service in MB, which the block fills."""
    peaks, stop = dict.fromkeys(stack.services, 0.0), threading.Event()

    def sample() -> None:
        while not stop.wait(SAMPLE_S):
            for name, service in stack.services.items():
                peaks[name] = max(peaks[name], service.memory_mb())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peaks
    finally:
        stop.set()
        thread.join()


def check_scores(job: JobUnderTest) -> int:
    """Asserts that each event has a score; returns their number."""
    with open_session(job.settings.cassandra) as session:
        stored = read_stored_scoring(job.settings, session)
    assert_consistent(stored, sent_events(job.settings))
    return len(stored.scores)


def run_flood(events: int) -> dict[str, Any]:
    """Raises AssertionError if an event has no score."""
    with job_on_own_stack("flood", {"window": {"length_ms": WINDOW_MS}}) as job:
        started_s = time.monotonic()
        with peak_memory(job.stack) as peaks:
            say(f"sending {events} events of one user, and {NORMAL_EVENTS} others")
            sent = job.send(messages(events))
            job.send_heartbeats(
                closing_time_ms(START_MS + WINDOWS * WINDOW_MS, job.settings.window)
            )
            say("waiting until the job has processed them")
            job.wait_until_caught_up(CATCH_UP_TIMEOUT_S)
        seconds = time.monotonic() - started_s
        outcome = end_job(job)
        scored = check_scores(job)
    is_bounded = peaks["taskmanager"] < MEMORY_MB
    return {
        "ok": (
            outcome.ok and outcome.comparison.job == outcome.comparison.reference and is_bounded
        ),
        "events": events,
        "normal_events": NORMAL_EVENTS,
        "normal_users": NORMAL_USERS,
        "events_per_s": round(sent / seconds),
        "seconds": round(seconds),
        "restarts": outcome.restarts,
        "scored": scored,
        "peak_memory_mb": {name: round(peak) for name, peak in peaks.items()},
        "memory_limit_mb": {"taskmanager": MEMORY_MB},
        "audit": outcome.audit,
        "comparison": outcome.comparison.as_json(),
    }


def main(
    events: Annotated[int, typer.Option(help="Number of events of the flood.", min=1)] = 1_000_000,
) -> None:
    """Sends a flood of one user's events beside normal users. Prints one line of JSON."""
    result = run_flood(events)
    typer.echo(json.dumps(result))
    raise typer.Exit(0 if result["ok"] else 1)


if __name__ == "__main__":
    typer.run(main)
