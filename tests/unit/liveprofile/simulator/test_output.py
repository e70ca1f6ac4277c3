"""Files of the simulated shop: reproducible bytes, replay, labels, and
`liveprofile events generate`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli.main import app
from liveprofile.errors import InputError
from liveprofile.ingest.replay import open_source
from liveprofile.labels.feedback import RejectedLabel, read_labels
from liveprofile.simulator import Shop, ShopConfig
from liveprofile.simulator.output import write_shop
from tests.support.paths import ROOT
from tests.unit.liveprofile.simulator.small_shop import SMALL

pytestmark = pytest.mark.slow


def write_small_shop(folder: Path, suffix: str, **changed) -> tuple[bytes, bytes]:
    out, labels = folder / f"events{suffix}", folder / f"labels{suffix}"
    write_shop(Shop(ShopConfig(**{**SMALL, "seed": 7, **changed})), out, labels)
    return out.read_bytes(), labels.read_bytes()


def test_same_seed_gives_the_same_bytes_and_another_seed_other_bytes(tmp_path):
    first = write_small_shop(tmp_path, ".jsonl")
    assert write_small_shop(tmp_path, ".jsonl") == first
    other = write_small_shop(tmp_path, ".jsonl", seed=8)
    assert other[0] != first[0] and other[1] != first[1]


def test_json_lines_and_parquet_replay_as_the_same_events(tmp_path):
    write_small_shop(tmp_path, ".jsonl")
    write_small_shop(tmp_path, ".parquet")

    def replayed(path: Path, mapping: Path | None) -> list[dict]:
        batches, translator = open_source(path, mapping)
        return [
            json.loads(value) for batch in batches for value in translator.translate(batch).values
        ]

    mapped = replayed(tmp_path / "events.parquet", ROOT / "mappings/generated.toml")
    for event in mapped:
        present = {k: v for k, v in (event.pop("attributes", None) or {}).items() if v is not None}
        if present:
            event["attributes"] = present
    assert mapped == replayed(tmp_path / "events.jsonl", None)
    tables = pq.read_table(tmp_path / "labels.parquet").to_pylist()
    assert [{k: v for k, v in row.items() if v is not None} for row in tables] == [
        json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()
    ]


def test_labels_are_valid_feedback_with_the_entities_of_their_events(tmp_path, events):
    write_small_shop(tmp_path, ".jsonl")
    labels = list(read_labels(tmp_path / "labels.jsonl", "generator"))
    assert len(labels) > 100 and not [row for row in labels if isinstance(row, RejectedLabel)]
    by_id = {row["event_id"]: row for row in events.to_pylist()}
    for row in labels:
        event = by_id[row["event_id"]]
        for name in ("user_id", "event_time", "device_id", "coupon_id", "shop_id", "address_id"):
            assert row.get(name) == event[name]
        cell = [math.floor(event[name] * 100) for name in ("lat", "lon") if event[name] is not None]
        assert row.get("place", "") == ":".join(map(str, cell))


def test_generate_command_ends_with_a_json_summary(tmp_path):
    out, labels = tmp_path / "events.jsonl", tmp_path / "labels.jsonl"
    options = ["--users", "300", "--days", "3", "--seed", "5"]
    result = CliRunner().invoke(
        app, ["events", "generate", "--out", str(out), "--labels", str(labels), *options]
    )
    assert result.exit_code == 0
    last = json.loads(result.stdout.splitlines()[-1])
    assert set(last) == {"events", "users", "days", "seed", "fraud_events", "seconds"}
    assert last["events"] == len(out.read_bytes().splitlines())
    written = Counter(
        row["kind"] for row in map(json.loads, labels.open("rb")) if row["label"] == "fraud"
    )
    assert last["fraud_events"] == written

    piped = CliRunner().invoke(app, ["events", "generate", "--out", "-", *options])
    assert piped.stdout_bytes == out.read_bytes()


def test_file_that_cannot_be_written_is_named(tmp_path):
    for name in ("events.csv", "no/folder/events.jsonl"):
        with pytest.raises(InputError, match=name):
            write_shop(Shop(ShopConfig(users=5, days=1)), tmp_path / name)
