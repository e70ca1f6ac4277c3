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

from benchmarks.support import runs
from liveprofile.audit.audit import Audit
from liveprofile.config import Settings
from liveprofile.errors import ServiceError
from liveprofile.kafka.records import Record
from liveprofile.kafka.topics import PartitionRange
from liveprofile.resources import ROOT
from liveprofile.storage.queries import WindowDigests
from liveprofile.units import MINUTE_MS
from liveprofile.wire.payload import digest

PARTITIONS, USERS = 4, 1_000_000
START_MS = 1_500_000_000_000 // (5 * MINUTE_MS) * (5 * MINUTE_MS)
RECORDS_PER_MS = 10
# Of each hundred records, the numbers of those that are not used. A copy follows its event.
REJECTED, LATE, COPY = 7, 13, 29
EVENTS_PER_WINDOW = 5  # a user sends all events of a window in a row
VALUE = (
    b'{"event_id":"event-%d","user_id":"user-%d","event_type":"view","event_time":%d,'
    b'"item_id":"item-1234","category_id":"category-12","price":12.5,"quantity":1,'
    b'"session_id":"session-123456","device_id":"device-12345","channel":"web"}'
)
NO_HEADERS: dict[str, bytes] = {}


def audit(sizes: list[int]) -> list[dict[str, Any]]:
    """Measures seconds and MB for each number of records. Raises ServiceError."""
    results = []
    for records in sizes:
        command = [sys.executable, "-m", "benchmarks.audit", str(records)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise ServiceError(f"the audit failed with exit code {done.returncode}")
        results.append(json.loads(done.stdout))
        runs.log_progress(str(results[-1]))
    return results


def measure(records: int) -> dict[str, Any]:
    """Audits so many records in this process."""
    start_mb, start_s = _peak_mb(), time.monotonic()
    ranges = {
        number: PartitionRange(0, len(range(number, records, PARTITIONS)))
        for number in range(PARTITIONS)
    }
    with Audit(Settings().window) as audited:
        audited.add_rejected(_sources(records, REJECTED))
        audited.add_late(_sources(records, LATE))
        audited.add_deltas(_deltas(records))
        deltas_s = time.monotonic() - start_s
        audited.add_records(map(_record, range(records)), ranges)
        read_s = time.monotonic() - start_s
        counts = audited.report().counts
    if not counts.ok or counts.in_topic != records:
        raise ServiceError(f"the audit of correct data reports {counts}")
    return {
        "records": records,
        "seconds": round(time.monotonic() - start_s, 1),
        "cpu_us_per_record": round(time.process_time() / records * 1e6, 1),
        "seconds_deltas": round(deltas_s, 1),
        "seconds_records": round(read_s - deltas_s, 1),
        "peak_mb_before": round(start_mb),
        "peak_mb": round(_peak_mb()),
    }


def _sources(records: int, number: int) -> Iterator[tuple[int, int]]:
    return ((one % PARTITIONS, one // PARTITIONS) for one in range(number, records, 100))


def _record(number: int) -> Record:
    window = number // EVENTS_PER_WINDOW
    # All events of a window have its first event's time.
    time_ms = START_MS + window * EVENTS_PER_WINDOW // RECORDS_PER_MS
    value = VALUE % (number - (number % 100 == COPY), window % USERS, time_ms)
    partition, offset = number % PARTITIONS, number // PARTITIONS
    return Record("events", partition, offset, time_ms, None, value, NO_HEADERS)


def _deltas(records: int) -> Iterator[WindowDigests]:
    not_used = (REJECTED, LATE, COPY)
    for first in range(0, records, EVENTS_PER_WINDOW):
        numbers = range(first, min(records, first + EVENTS_PER_WINDOW))
        used = [digest(f"event-{one}") for one in numbers if one % 100 not in not_used]
        user_id = f"user-{first // EVENTS_PER_WINDOW % USERS}"
        start_ms = START_MS + first // RECORDS_PER_MS
        yield WindowDigests(user_id, start_ms, start_ms, len(used), b"".join(used))


def _peak_mb() -> float:
    """The largest resident memory so far, mapped files included."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
