"""Labels in files and by the schema, before anything is sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from liveprofile.config import Settings, load
from liveprofile.errors import InputError
from liveprofile.kafka.records import Record
from liveprofile.labels import feedback
from liveprofile.labels.feedback import problem, read_given, read_labels, valid

SCHEMA = json.loads(feedback.SCHEMA_FILE.read_text("utf-8"))
LABEL = {
    "event_id": "e1", "user_id": "42", "label": "fraud", "analyst": "anna",
    "event_time": 1_511_658_000_000, "time": 1_511_740_800_000,
}  # fmt: skip


def test_the_schema_is_one_and_its_examples_hold():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for example in SCHEMA["examples"]:
        assert problem(example) is None


@pytest.mark.parametrize("field", SCHEMA["required"])
def test_a_label_needs_every_field(field: str):
    wrong = problem({name: value for name, value in LABEL.items() if name != field})
    assert wrong is not None and field in wrong


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("label", "maybe"),
        ("time", 12),
        ("time", "yesterday"),
        ("event_time", 1.5),
        ("user_id", ""),
        ("user_id", 42),
        ("event_id", "x" * 257),
        ("event_id", "a\x1fb"),
        ("flag_id", "abc"),
        ("place", "45.12:-73.12"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: object):
    assert problem(LABEL | {field: value}).startswith(f"{field}: ")


def test_lines_become_records(tmp_path: Path):
    file = tmp_path / "labels.jsonl"
    rows = [
        {**LABEL, "user_id": 42, "device_id": None, "note": "left out"},
        {**LABEL, "time": None, "analyst": "", "known_at": LABEL["time"]},
        {**LABEL, "label": "chargeback"},
    ]  # fmt: skip
    file.write_text("\n".join([*map(json.dumps, rows), "nonsense", "[]"]) + "\n")
    found = list(read_labels(file, "bank"))
    assert found[:2] == [LABEL, LABEL | {"analyst": "bank"}]
    assert [row.row for row in found[2:]] == [3, 4, 5]
    assert found[2].reason.startswith("label: ") and found[3].reason == "is no JSON object"
    rejected, count = [], []
    assert list(valid(found, rejected.append, lambda: count.append(1))) == found[:2]
    assert len(rejected) == 3 and len(count) == 5 == feedback.rows_estimate(file)


def test_parquet_becomes_the_same_records(tmp_path: Path):
    file = tmp_path / "labels.parquet"
    known = datetime.fromtimestamp(LABEL["time"] / 1_000, UTC)
    row = {**LABEL, "user_id": 42, "time": known, "shop_id": "s", "coupon_id": "", "more": [1]}
    pq.write_table(pa.Table.from_pylist([row]), file)
    assert list(read_labels(file, "bank")) == [LABEL | {"shop_id": "s"}]
    assert feedback.rows_estimate(file) == 1


def test_without_a_file_labels_are_the_topics(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def read_topic(settings: Settings, topic: str) -> Iterator[Record]:
        asked.append(topic)
        values = [json.dumps(LABEL).encode(), None, b"nonsense", json.dumps({"label": 1}).encode()]
        for offset, value in enumerate(values):
            yield Record(topic, 0, offset, 0, b"42", value, {})

    monkeypatch.setattr(feedback, "read_topic", read_topic)
    settings = load(topics={"feedback": "labels"})
    found = list(read_given(settings, None, "bank"))
    assert asked == ["labels"]
    assert found[0] == LABEL
    assert [row.row for row in found[1:]] == [2, 3, 4]


def test_a_file_that_is_none_is_one_line(tmp_path: Path):
    with pytest.raises(InputError, match="no file at"):
        list(read_labels(tmp_path / "none.jsonl", "bank"))
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"broken\.parquet: "):
        list(read_labels(broken, "bank"))
