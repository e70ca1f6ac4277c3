"""Measures whether the memory of a training grows with its rows. Each size has its own process.

A training reads memory-mapped files, so resident memory includes pages that the system can drop.
Anonymous memory is what the process itself allocates.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from benchmarks.load.workload import Workload
from benchmarks.support import runs
from liveprofile.errors import ServiceError
from liveprofile.resources import ROOT
from liveprofile.settings import Settings, load
from liveprofile.units import DAY_MS
from tests.support.rows.profile_input import batches
from tests.unit.models.profile.miniature import as_table

DAYS, EVENTS_PER_WINDOW = 30, 5
BATCH_ROWS = 2_000
WINDOW = {"length_ms": DAY_MS}
SAMPLE_S = 0.02
MEGABYTE = 1e6


def workload_of_windows(windows: int) -> Workload:
    """A workload with at least `windows` windows of a day.

    The number of users grows with it and the busiest user has 1 % of the events, so more rows do
    not mean longer histories.
    """
    return Workload(windows * EVENTS_PER_WINDOW, 1 + windows // (DAYS - 2), 1.01, DAYS * 24)


def training_rows(root: Path, sizes: list[int]) -> list[dict[str, Any]]:
    """Measures windows, events, seconds and MB for each size."""
    results = []
    for windows in sizes:
        with runs.temporary_folder(root):
            root.mkdir(parents=True)
            runs.log_progress(f"writing {windows} windows")
            write(workload_of_windows(windows), load(window=WINDOW), root)
            results.append(_measure_read(root))
        runs.log_progress(str(results[-1]))
    return results


def write(workload: Workload, settings: Settings, folder: Path) -> None:
    """Writes training rows with the columns of a backfill, one file per batch."""
    for number, batch in enumerate(batches(workload.messages(), settings, BATCH_ROWS)):
        pq.write_table(as_table(batch), folder / f"part-{number:05}.parquet")


def _measure_read(folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "lab.benchmarks.training_rows", str(folder)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    process, anonymous_mb, resident_mb = psutil.Process(child.pid), 0.0, 0.0
    while child.poll() is None:
        memory = process.memory_info()
        anonymous_mb = max(anonymous_mb, (memory.rss - memory.shared) / MEGABYTE)
        resident_mb = max(resident_mb, memory.rss / MEGABYTE)
        time.sleep(SAMPLE_S)
    printed, _ = child.communicate()
    if child.returncode:
        raise ServiceError(f"reading the rows failed with exit code {child.returncode}")
    return {
        **json.loads(printed),
        "anonymous_mb_max": round(anonymous_mb),
        "resident_mb_max": round(resident_mb),
    }


def _read_and_report(folder: Path) -> dict[str, Any]:
    """Does everything that a training does before its first step."""
    from models.profile.data.prepared import prepare
    from models.profile.recipes import recipe

    memory = psutil.Process().memory_info()
    start_s = time.monotonic()
    streams = prepare(recipe("general-7-days"), folder).corpus.streams
    return {
        "windows": len(streams.user_W),
        "events": len(streams.time_ms_N),
        "seconds": round(time.monotonic() - start_s, 1),
        "anonymous_mb_before": round((memory.rss - memory.shared) / MEGABYTE),
    }


if __name__ == "__main__":
    print(json.dumps(_read_and_report(Path(sys.argv[1]))))
