"""The backfill gives the rows that the stream's model was called with, and training reads them."""

from __future__ import annotations

import json
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest

from cli.pipeline.backfill_job_runner import BackfillResult, backfill_profile_rows
from liveprofile.config import Settings, load
from liveprofile.units import HOUR_MS
from liveprofile.wire.token_columns import read_histories
from liveprofile.wire.tokens import EVENT
from models.profile.data import training_rows
from tests.reference.profile import run_reference
from tests.reference.windows import Record
from tests.support.shop import START_MS, shop_events

pytestmark = pytest.mark.pipeline


# Every user has a twin who does the same, but nothing any more from here on.
TWIN = "-twin"
UNTIL_MS = START_MS + 6 * HOUR_MS


@pytest.fixture(scope="module")
def events() -> list[dict[str, Any]]:
    events = list(islice(shop_events(3, 12, 60_000), 600))
    twins = [
        event | {name: event[name] + TWIN for name in ("event_id", "user_id")}
        for event in events
        if event["event_time"] < UNTIL_MS
    ]
    return sorted(events + twins, key=itemgetter("event_time"))


@pytest.fixture(scope="module")
def backfilled(
    events: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[BackfillResult, Path]:
    return backfill_of(events, load(), tmp_path_factory.mktemp("backfill"), config=None)


def backfill_of(
    events: list[dict[str, Any]], settings: Settings, work: Path, config: Path | None
) -> tuple[BackfillResult, Path]:
    archive, folder = work / "events.jsonl", work / "rows"
    archive.write_text("".join(json.dumps(event) + "\n" for event in events))
    return backfill_profile_rows(
        settings, folder, config=config, source=archive, cluster=False
    ), folder


def test_the_rows_are_the_stream_s(
    events: list[dict[str, Any]], backfilled: tuple[BackfillResult, Path]
) -> None:
    result, folder = backfilled
    assert_rows_are_the_references(events, load(), result, folder)
    streams = training_rows.read(folder)
    assert len(streams.time_ms_N) == len(events)


def test_staggered_rows_are_the_stream_s(events: list[dict[str, Any]], tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[window]\nstagger_ms = 10_000\n")
    settings = load(config)
    made = backfill_of(events, settings, tmp_path, config)
    assert_rows_are_the_references(events, settings, *made)


def assert_rows_are_the_references(
    events: list[dict[str, Any]], settings: Settings, result: BackfillResult, folder: Path
) -> None:
    records = [
        Record(0, offset, 1_790_000_000_000, None, json.dumps(event).encode())
        for offset, event in enumerate(events)
    ]
    expected = run_reference(records, settings, late=set()).profiles
    table = ds.dataset(folder, partitioning="hive").to_table()
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


def test_a_row_is_the_same_whatever_its_user_does_later(
    backfilled: tuple[BackfillResult, Path],
) -> None:
    rows = ds.dataset(backfilled[1], partitioning="hive").to_table().to_pylist()
    by_window = {(row["user_id"], row["window_end_ms"]): row for row in rows}
    pairs = [
        (by_window[user_id.removesuffix(TWIN), end_ms], row)
        for (user_id, end_ms), row in by_window.items()
        if user_id.endswith(TWIN)
    ]
    assert len(rows) > len(pairs) + 100 and len(pairs) > 100
    for row, twin in pairs:
        # The order in which a window collects its events is not the same in every run.
        ours, theirs = row["events"], twin["events"].replace(TWIN, "")
        assert sorted(ours.split(EVENT)) == sorted(theirs.split(EVENT))
        for name in ("added", "sums"):
            np.testing.assert_allclose(row[name], twin[name], rtol=1e-12)
    ours, theirs = zip(*pairs, strict=True)
    np.testing.assert_equal(
        *(read_histories([row["history"] for row in side]) for side in (ours, theirs))
    )
