"""Programs of tests.chaos that compare all output of a job with the reference."""

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from intake.files.replay import closing_time_ms
from liveprofile.kafka.records import read_topic
from liveprofile.storage.connection import open_session
from liveprofile.units import DAY_MS
from stack.local import Stack
from tests.faults.loaded_job import WINDOW, open_loaded_job
from tests.faults.test_faults import FAULTS, Scene, killed_jobmanager
from tests.support import summary
from tests.support.compare import Comparison, compare_with_reference
from tests.support.compare_scoring import assert_consistent, read_stored_scoring, sent_events
from tests.support.job_under_test import BUSY_JOB, JobUnderTest, job_on_own_stack
from tests.support.streams.seeded import Message, payload_variants, poison_messages
from tests.support.streams.shop import START_MS, shop_events, to_message
from tests.support.summary import say

TIMEOUT_S = 3_600.0
FAULTS_AT_FULL_SIZE, KILLS, FLOOD_EVENTS, FUZZ_RECORDS = 60, 50, 10**6, 10**5


class Outcome(NamedTuple):
    state: str
    restarts: int
    audit: dict[str, Any]
    comparison: Comparison

    @property
    def ok(self) -> bool:
        """The job ran without a restart, the audit is clean, and all equals the reference's."""
        runs = self.state == "RUNNING" and not self.restarts
        return bool(self.audit["ok"] and self.comparison.ok and runs)

    def as_json(self) -> dict[str, Any]:
        return {
            "restarts": self.restarts,
            "audit": self.audit,
            "comparison": self.comparison.as_json(),
        }


def end_job(job: JobUnderTest) -> Outcome:
    """Cancels the job, audits its records and compares what it stored with the reference."""
    state, restarts = job.state(), job.restarts()
    job.cancel()  # an idle job takes the CPU time that the comparison needs
    say("auditing, and comparing with the reference")
    return Outcome(state, restarts, job.audit(), compare_with_reference(job.settings))


# --- faults and kills -----------------------------------------------------------------------------


def faults(seed: int, scale: float) -> dict[str, Any]:
    """The faults of tests/faults/test_faults.py in a random order, several times each."""
    # It expects that no JobManager was killed before.
    choices = [fault for fault in FAULTS if fault.happens is not killed_jobmanager]
    drawn = random.Random(seed).choices(choices, k=max(1, round(FAULTS_AT_FULL_SIZE * scale)))
    sections = {"window": WINDOW, "job": BUSY_JOB}
    with job_on_own_stack("faults", sections) as job, open_loaded_job(job) as loaded_job:
        for fault in drawn:
            loaded_job.load()
            with loaded_job.recovery(fault.name):
                fault.happens(Scene(loaded_job, job.stack, lambda source: time.sleep(30)))
            say(summary.LINES[-1])
        loaded_job.close_windows()
        job.cancel()
        loaded_job.compare()
    return {"ok": True, "faults": Counter(fault.name for fault in drawn)}


def kills(seed: int, scale: float) -> dict[str, Any]:
    """Kills Python workers under a load with late events, of which no window may drop one.

    Counts the kills that Flink did not notice, after which the workers' guards restarted the job.
    """
    dropped = unnoticed = 0
    times = max(1, round(KILLS * scale))
    with job_on_own_stack("kills", {"window": WINDOW}) as job, open_loaded_job(job) as loaded_job:
        for number in range(times):
            loaded_job.load()
            with loaded_job.recovery(f"kill {number + 1} of {times}"):
                unnoticed += not loaded_job.kill_worker()
            dropped += job.late_records_dropped()
            say(summary.LINES[-1])
        loaded_job.close_windows()
        dropped += job.late_records_dropped()
        job.cancel()
        audit = loaded_job.compare()
    counts = {"kills": times, "unnoticed": unnoticed, "late_records_dropped": dropped}
    return {"ok": not dropped, **counts, "audit": audit}


# --- flood ----------------------------------------------------------------------------------------

FLOOD_WINDOW_MS = 300_000
NORMAL_USERS, NORMAL_EVENTS = 1_000, 10_000
WINDOWS = 4  # that the normal users' events are spread over
FLOODED_WINDOW = 1
SCORED_EVERY = 50
# Which of its tokens so large a window keeps depends on the order of arrival. With few items the
# user's next items do not.
ITEMS = 10
# flink-conf/config.yaml: a TaskManager, and two Python workers in each of two slots.
MEMORY_MB = 3_584 + 2 * (840 + 350)


def flood(seed: int, scale: float) -> dict[str, Any]:
    """A flood of one user's events in one window, beside normal users, in bounded memory.

    Every 50th event of the flood is scored too; a scored one costs more than all others.
    """
    events = max(1, round(FLOOD_EVENTS * scale))
    step_ms = WINDOWS * FLOOD_WINDOW_MS // NORMAL_EVENTS
    normal = itertools.islice(shop_events(seed, NORMAL_USERS, step_ms), NORMAL_EVENTS)
    merged = sorted([*normal, *_flood(events)], key=lambda event: event["event_time"])
    with job_on_own_stack("flood", {"window": {"length_ms": FLOOD_WINDOW_MS}}) as job:
        started_s = time.monotonic()
        with _peak_memory(job.stack) as peaks:
            say(f"sending {events} events of one user, and {NORMAL_EVENTS} others")
            sent = job.send(map(to_message, merged))
            end_ms = START_MS + WINDOWS * FLOOD_WINDOW_MS
            job.send_heartbeats(closing_time_ms(end_ms, job.settings.window))
            job.wait_until_caught_up(TIMEOUT_S)
        seconds = time.monotonic() - started_s
        outcome = end_job(job)
        with open_session(job.settings.cassandra) as session:
            stored = read_stored_scoring(job.settings, session)
        assert_consistent(stored, sent_events(job.settings))
    is_bounded = peaks["taskmanager"] < MEMORY_MB
    same = outcome.comparison.job == outcome.comparison.reference
    return {
        "ok": outcome.ok and same and is_bounded,
        "events": events,
        "events_per_s": round(sent / seconds),
        "seconds": round(seconds),
        "scored": len(stored.scores),
        "peak_memory_mb": {name: round(peak) for name, peak in peaks.items()},
        "memory_limit_mb": {"taskmanager": MEMORY_MB},
    } | outcome.as_json()


def _flood(events: int) -> Iterator[dict[str, Any]]:
    """All within one window, in order."""
    window_ms = START_MS - START_MS % FLOOD_WINDOW_MS + FLOODED_WINDOW * FLOOD_WINDOW_MS
    for number in range(events):
        yield {
            "event_id": f"flood-{number}",
            "user_id": "bot",
            "event_type": "view" if number % SCORED_EVERY else "purchase",
            "event_time": window_ms + number * FLOOD_WINDOW_MS // events,
            "item_id": f"item-{number % ITEMS}",
            "amount": 1.0,
            "device_id": "bot",
        }


@contextmanager
def _peak_memory(stack: Stack) -> Iterator[dict[str, float]]:
    """Yields the largest resident memory of each service in MB, which the block fills."""
    peaks, stop = dict.fromkeys(stack.services, 0.0), threading.Event()

    def sample() -> None:
        while not stop.wait(1.0):
            for name, service in stack.services.items():
                peaks[name] = max(peaks[name], service.memory_mb())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peaks
    finally:
        stop.set()
        thread.join()


# --- random payloads -------------------------------------------------------------------


def fuzz(seed: int, scale: float) -> dict[str, Any]:
    """Random payloads: half must not stop the job, half have their fields in any notation."""
    count = max(2, round(FUZZ_RECORDS * scale))
    messages = poison_messages(count // 2, seed) + payload_variants(count - count // 2, seed)
    with job_on_own_stack("fuzz") as job:
        say(f"sending {count} records")
        # Duplicates are exact only if they come in one order: all of these go to one partition.
        job.send(Message(b"one", value) for _, value in messages)
        job.send_heartbeats(1_700_000_000_000 + 30 * DAY_MS)  # after all events
        job.wait_until_caught_up(TIMEOUT_S)
        outcome = end_job(job)
        rejected = read_topic(job.settings, job.settings.topics.rejected)
        reasons = Counter(record.headers["reason"].decode() for record in rejected)
    return {"ok": outcome.ok, "records": count, "reasons": dict(reasons)} | outcome.as_json()
