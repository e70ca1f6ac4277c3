"""The backfill gives the rows that the stream's model was called with, and training reads them."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from liveprofile.backfill import backfill
from liveprofile.config import load
from models import rows
from tests.reference import Record, run
from tests.shop import visits

pytestmark = pytest.mark.pipeline


def test_the_rows_are_the_stream_s(tmp_path: Path) -> None:
    events = list(islice(visits(3, 12, 60_000), 600))
    archive = tmp_path / "events.jsonl"
    archive.write_text("".join(json.dumps(event) + "\n" for event in events))
    result = backfill(load(), tmp_path / "rows", config=None, source=archive, cluster=False)

    records = [
        Record(0, offset, 1_790_000_000_000, None, json.dumps(event).encode())
        for offset, event in enumerate(events)
    ]
    expected = run(records, load(), late=set()).profiles
    table = ds.dataset(tmp_path / "rows", partitioning="hive").to_table()
    assert (result.events, result.rows) == (len(events), len(expected))
    made = {(row["user_id"], row["window_end_ms"]): row for row in table.to_pylist()}
    assert made.keys() == expected.keys()
    for key, profile in expected.items():
        windows, counted, purchases, amount, *_ = made[key]["sums"]
        after = profile.after
        assert (windows, counted, purchases) == (
            after["windows"], after["events"], after["purchases"],
        )  # fmt: skip
        assert amount == pytest.approx(after["amount"])
        # Point in time: no row has seen an event of its own future.
        times = [int(one.split("\x1f", 1)[0]) for one in made[key]["events"].split("\x1e")]
        assert max(times) < key[1]

    streams = rows.read(tmp_path / "rows")
    assert len(streams.time_ms_N) == len(expected and events)
