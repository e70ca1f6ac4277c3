"""`benchmarks storage`."""

from __future__ import annotations

from benchmarks.load.workload import Workload
from benchmarks.support.command_line import BENCH_ROOT, USERS, Events, Root, Users, report


def storage(root: Root = BENCH_ROOT, events: Events = 100_000, users: Users = USERS) -> None:
    """Measure the bytes on Cassandra's disk for each window and score, by table and compression."""
    from benchmarks.storage.bytes_per_window import bytes_per_window

    workload = Workload.of(events, users)
    report("storage", workload, lambda: bytes_per_window(root, workload))
