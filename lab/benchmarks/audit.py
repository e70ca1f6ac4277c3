"""Measures time and memory of the audit on generated records and deltas. Without Kafka, Cassandra.

Each size has a process of its own, so that the peak memory is that of the size.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support import runs
from liveprofile.errors import ServiceError
from liveprofile.events.window_times import end_ms
from liveprofile.kafka.topics import PartitionRange
from liveprofile.resources import ROOT
from liveprofile.settings import Settings
from liveprofile.units import MINUTE_MS
from services.event_audit.audit import Audit
from services.event_audit.rows import BATCH_ROWS, INPUT_ROW, SPREAD, STORED_ROW, position

PARTITIONS, USERS = 4, 1_000_000
START_MS = 1_500_000_000_000 // (5 * MINUTE_MS) * (5 * MINUTE_MS)
RECORDS_PER_MS = 10
# Of each hundred records, the numbers of those that are not used. A copy follows its event.
REJECTED, LATE, COPY = 7, 13, 29
EVENTS_PER_WINDOW = 5  # a user sends all events of a window in a row


def audit(sizes: list[int]) -> list[dict[str, Any]]:
    """Measures seconds and MB for each number of records. Raises ServiceError."""
    results = []
    for records in sizes:
        command = [sys.executable, "-m", "lab.benchmarks.audit", str(records)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise ServiceError(f"the audit failed with exit code {done.returncode}")
        results.append(json.loads(done.stdout))
        runs.log_progress(str(results[-1]))
    return results


def measure(records: int) -> dict[str, Any]:
    """Audits so many rows in this process."""
    start_mb, start_s, start_cpu_s = _peak_mb(), time.monotonic(), time.process_time()
    ranges = {
        number: PartitionRange(0, len(range(number, records, PARTITIONS)))
        for number in range(PARTITIONS)
    }
    with Audit(Settings().window) as audited:
        audited.add_outcomes(_outcomes(records, REJECTED, "rejected"))
        audited.add_outcomes(_outcomes(records, LATE, "late"))
        for numbers in _batches(records):
            audited.add_stored_rows(_stored_rows(numbers))
        audited.add_rows(map(_input_rows, _batches(records)), ranges)
        counts = audited.report().counts
    if not counts.ok or counts.in_topic != records:
        raise ServiceError(f"the audit of correct data reports {counts}")
    return {
        "records": records,
        "seconds": round(time.monotonic() - start_s, 1),
        "cpu_us_per_record": round((time.process_time() - start_cpu_s) / records * 1e6, 2),
        "peak_mb_before": round(start_mb),
        "peak_mb": round(_peak_mb()),
    }


def _outcomes(records: int, number: int, outcome: str) -> Iterator[tuple[int, int, str]]:
    return ((one % PARTITIONS, one // PARTITIONS, outcome) for one in range(number, records, 100))


def _batches(records: int) -> Iterator[np.ndarray]:
    for first in range(0, records, BATCH_ROWS):
        yield np.arange(first, min(records, first + BATCH_ROWS))


def _event_and_user(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) uint64 each: spread evenly, as the digests of ids are."""
    events = numbers - (numbers % 100 == COPY)
    users = numbers // EVENTS_PER_WINDOW % USERS
    return (events.astype(np.uint64) + np.uint64(1)) * SPREAD, users.astype(np.uint64)


def _input_rows(numbers: np.ndarray) -> np.ndarray:
    rows = np.zeros(len(numbers), INPUT_ROW)
    rows["key"], rows["user"] = _event_and_user(numbers)
    rows["position"] = position(1, 0) * (numbers % PARTITIONS) + numbers // PARTITIONS
    rows["time_ms"] = rows["timestamp_ms"] = START_MS + numbers // RECORDS_PER_MS
    rows["end_ms"] = end_ms(rows["time_ms"], 0, Settings().window)
    return rows


def _stored_rows(numbers: np.ndarray) -> np.ndarray:
    used = numbers[~np.isin(numbers % 100, (REJECTED, LATE, COPY))]
    rows = np.zeros(len(used), STORED_ROW)
    rows["key"], rows["user"] = _event_and_user(used)
    rows["proven"] = True
    return rows


def _peak_mb() -> float:
    """The largest resident memory so far."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
