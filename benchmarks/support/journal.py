"""What the operator did, written down where it runs: one line a batch, at the moment it ended.

Flink's metrics come at most once a second and without the moment; a benchmark needs both.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from udfs.profile.batch import STAGES, Timing


class Entry(NamedTuple):
    """A batch that is through: its rows are stored, as far as the job stores."""

    at_s: float  # epoch
    rows: int
    stage_ms: dict[str, float]


class Journal:
    """The worker's side: appends to a file of its own in `folder`."""

    def __init__(self, folder: str):
        name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        self._file = (Path(folder) / name).open("a", buffering=1, encoding="utf-8")

    def write(self, rows: int, stage_ms: dict[str, float]) -> None:
        self._file.write(json.dumps([time.time(), rows, stage_ms]) + "\n")

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class OpenReport:
    """For `udfs.profile.udf.profile_operator`: the operator's own metrics, and a journal."""

    folder: str

    def __call__(self, group: Any) -> Callable[[Timing], None]:
        from udfs.profile.udf import Metrics

        metrics, journal = Metrics(group), Journal(self.folder)

        def report(timing: Timing) -> None:
            metrics(timing)
            stage_ms = {stage: round(getattr(timing, f"{stage}_ms"), 3) for stage in STAGES}
            journal.write(timing.rows, stage_ms)

        return report


class JournalReader:
    """The benchmark's side: all entries so far of all workers."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._read: dict[Path, int] = {}
        self.entries: list[Entry] = []
        self.rows = 0

    def update(self) -> int:
        """Reads what is new; returns the rows so far."""
        for path in self._folder.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read[path] = self._read.get(path, 0) + len(line)
                    self.entries.append(Entry(*json.loads(line)))
                    self.rows += self.entries[-1].rows
        return self.rows
