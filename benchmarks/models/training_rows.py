"""Whether a training's memory grows with its rows: each size is read in a process of its own.

What a training reads lies in mapped files, so resident memory holds pages that the system drops
when others need them. Anonymous memory is what the process itself takes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.load.load import Load
from benchmarks.load.rows import batches
from benchmarks.support import runs
from liveprofile.config import Settings, load
from liveprofile.errors import ServiceError
from liveprofile.resources import ROOT
from udfs.profile.batch import Batch

DAYS, EVENTS_PER_WINDOW = 30, 5
BATCH_ROWS = 2_000
WINDOW = {"length_ms": 86_400_000}
SAMPLE_S = 0.02
MEGABYTE = 1e6


def load_of(windows: int) -> Load:
    """That many windows of a day and some more. The busiest user has 1 % of the events: ten times
    the rows are ten times the users, not longer histories."""
    return Load(windows * EVENTS_PER_WINDOW, 1 + windows // (DAYS - 2), 1.01, DAYS * 24)


def training_rows(root: Path, sizes: list[int]) -> list[dict[str, Any]]:
    """Windows, events, seconds and MB of each size."""
    found = []
    for windows in sizes:
        with runs.removed(root):
            root.mkdir(parents=True)
            runs.say(f"writing {windows} windows")
            write(load_of(windows), load(window=WINDOW), root)
            found.append(_read_alone(root))
        runs.say(str(found[-1]))
    return found


def write(workload: Load, settings: Settings, folder: Path) -> None:
    """Training rows in the columns of a backfill, as many files as there are batches."""
    for number, batch in enumerate(batches(workload.messages(), settings, BATCH_ROWS)):
        pq.write_table(as_table(batch), folder / f"part-{number:05}.parquet")


def as_table(batch: Batch) -> pa.Table:
    return pa.table({**batch._asdict(), "added": list(batch.added), "sums": list(batch.sums)})


def _read_alone(folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.models.training_rows", str(folder)]
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


def _read(folder: Path) -> dict[str, Any]:
    """All that a training does before its first step."""
    from models.profile.recipes import recipe
    from models.profile.training.train import prepare

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
    print(json.dumps(_read(Path(sys.argv[1]))))
