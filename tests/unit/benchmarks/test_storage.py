"""What `benchmarks storage` counts."""

from __future__ import annotations

import itertools
from pathlib import Path

from benchmarks.load.workload import Workload
from benchmarks.storage.bytes_per_window import BATCH_ROWS, TABLES, files_bytes, scored_events
from liveprofile.storage.schema import table_columns


def test_files_of_a_table_are_counted_without_snapshots_and_other_tables(tmp_path: Path) -> None:
    for name, size in (
        ("score-1a/da-1-bti-Data.db", 100),
        ("score-1a/da-1-bti-Filter.db", 5),
        ("score-1a/snapshots/dropped/da-1-bti-Data.db", 1_000),
        ("score_hours-2b/da-1-bti-Data.db", 10_000),
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(size))
    assert files_bytes(tmp_path, "score") == 105


def test_scores_are_those_of_the_workloads_events() -> None:
    workload = Workload(1_200, 100, hours=1)
    parts = list(scored_events(workload, 1_100))
    rows = list(itertools.chain(*parts))
    assert [len(part) for part in parts] == [BATCH_ROWS, BATCH_ROWS, 100] and len(rows) == 1_100
    assert len({row.event_id for row in rows}) == 1_100
    assert all(len(row.entities) == 5 and 0 <= row.score <= 1 for row in rows)
    assert any(row.active_rules for row in rows)


def test_every_counted_table_exists() -> None:
    assert TABLES.keys() <= table_columns().keys()
