"""Journal of a Python operator: its worker writes a line per batch when the batch ends.

Flink's metrics have no time of their own and a resolution of a second; a benchmark needs the exact
end time of each batch.
"""

import json
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from udfs.profile.update import ProfileBatchTiming


class Journal:
    """Writes the journal of one worker to a new file in `folder`."""

    def __init__(self, folder: str):
        name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        self._file = (Path(folder) / name).open("a", buffering=1, encoding="utf-8")

    def write(self, rows: int) -> None:
        """Notes that a batch of so many rows is processed, and stored."""
        self._file.write(json.dumps([time.time(), rows]) + "\n")

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
            journal.write(timing.rows)

        return report


class JournalReader:
    """Reads the journals of all workers, while they are being written."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._read: dict[Path, int] = {}
        # Of all batches; the end of the last one, in epoch seconds.
        self.batches, self.rows, self.last_s = 0, 0, 0.0

    def update(self) -> int:
        """Reads new lines; returns the total number of rows so far."""
        for path in self._folder.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read[path] = self._read.get(path, 0) + len(line)
                    at_s, rows = json.loads(line)
                    self.batches += 1
                    self.rows, self.last_s = self.rows + rows, max(self.last_s, at_s)
        return self.rows
