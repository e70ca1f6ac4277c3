"""`liveprofile model backfill` makes rows of the current content of the input topic."""

from __future__ import annotations

from pathlib import Path

import pyarrow.dataset as ds
import pytest

from liveprofile.storage import queries
from liveprofile.storage.connection import open_session
from tests.support.compare_profiles import scan

pytestmark = pytest.mark.services


def test_each_stored_window_has_a_row_and_late_events_have_others(
    processed, tmp_path: Path
) -> None:
    job, folder = processed.job, tmp_path / "rows"
    late = job.audit()["late"]
    found = job.run("model", "backfill", "--embedded", "--rows", str(folder))
    rows = ds.dataset(folder).to_table(["user_id", "window_end_ms"]).to_pylist()
    windows = {(row["user_id"], row["window_end_ms"]) for row in rows}
    with open_session(job.settings.cassandra) as session:
        deltas = scan(session, "profile_delta", queries.StoredDelta)
        stored = {(delta.user_id, delta.window_end_ms) for delta in deltas}
    assert found["rows"] == len(rows) == len(windows)
    assert windows >= stored and 0 < len(windows - stored) <= late
