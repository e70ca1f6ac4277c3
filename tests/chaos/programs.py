"""Programs of tests.chaos that compare all output of a job with the reference."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Any

from liveprofile.kafka.records import read_topic
from liveprofile.units import DAY_MS
from tests.faults.loaded_job import WINDOW, open_loaded_job
from tests.faults.test_faults import FAULTS, Scene, killed_jobmanager
from tests.support import summary
from tests.support.compare import compare_with_reference
from tests.support.job_under_test import BUSY_JOB, job_on_own_stack
from tests.support.streams.seeded import Message, payload_variants, poison_messages
from tests.support.summary import say

TIMEOUT_S = 3_600.0
FAULTS_AT_FULL_SIZE, KILLS, FUZZ_RECORDS = 60, 50, 10**5


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
        loaded_job.check()
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
        loaded_job.check()
        dropped += job.late_records_dropped()
        audit = job.audit()
    counts = {"kills": times, "unnoticed": unnoticed, "late_records_dropped": dropped}
    return {"ok": not dropped, **counts, "audit": audit}


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
        state, restarts = job.state(), job.restarts()
        job.cancel()  # an idle job takes the CPU time that the comparison needs
        say("auditing, and comparing with the reference")
        audit, comparison = job.audit(), compare_with_reference(job.settings)
        rejected = read_topic(job.settings, job.settings.topics.rejected)
        reasons = Counter(record.headers["reason"].decode() for record in rejected)
    return {
        "ok": audit["ok"] and comparison.ok and state == "RUNNING" and not restarts,
        "records": count,
        "reasons": dict(reasons),
        "restarts": restarts,
        "audit": audit,
        "comparison": comparison.as_json(),
    }
