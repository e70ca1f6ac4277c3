"""Journal of a Python operator: its worker writes a line per batch when the batch ends.

Flink's metrics have no time of their own and a resolution of a second; a benchmark needs the exact
end time of each batch.
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

from udfs.profile.batch import STAGES, ProfileBatchTiming


class BatchEntry(NamedTuple):
    """A processed batch; its rows are stored if the job's variant stores."""

    at_s: float  # end of the batch, epoch seconds
    rows: int
    stage_ms: dict[str, float]  # stage -> duration


class Journal:
    """Writes the journal of one worker to a new file in `folder`."""

    def __init__(self, folder: str):
        name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        self._file = (Path(folder) / name).open("a", buffering=1, encoding="utf-8")

    def write(self, rows: int, stage_ms: dict[str, float]) -> None:
        self._file.write(json.dumps([time.time(), rows, stage_ms]) + "\n")

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class OpenJournalMetrics:
    """Part `open_metrics` of `udfs.profile.udf.profile_udf`: Flink metrics plus the journal."""

    folder: str

    def __call__(self, group: Any) -> Callable[[ProfileBatchTiming], None]:
        from udfs.profile.udf import open_metrics

        metrics, journal = open_metrics(group), Journal(self.folder)

        def report(timing: ProfileBatchTiming) -> None:
            metrics(timing)
            stage_ms = {stage: round(getattr(timing, f"{stage}_ms"), 3) for stage in STAGES}
            journal.write(timing.rows, stage_ms)

        return report


class JournalReader:
    """Reads the journals of all workers, while they are being written."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._read: dict[Path, int] = {}
        self.entries: list[BatchEntry] = []
        self.rows = 0

    def update(self) -> int:
        """Reads new lines; returns the total number of rows so far."""
        for path in self._folder.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read[path] = self._read.get(path, 0) + len(line)
                    self.entries.append(BatchEntry(*json.loads(line)))
                    self.rows += self.entries[-1].rows
        return self.rows
