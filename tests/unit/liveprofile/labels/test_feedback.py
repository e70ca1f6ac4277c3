"""Label records: schema, files, and the records of the topic."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from liveprofile.errors import InputError
from liveprofile.kafka.records import Record
from liveprofile.labels import feedback
from liveprofile.labels.feedback import keep_valid, read_file_or_topic, read_labels, schema_error
from liveprofile.labels.rule_backtest import (
    StoredEvent,
    as_json,
    blocks,
    compare,
)
from liveprofile.settings import Settings, load
from liveprofile.units import DAY_MS, HOUR_MS
from tests.support.rows.rule_examples import rule

SCHEMA = json.loads(feedback.SCHEMA_FILE.read_text("utf-8"))
LABEL = {
    "event_id": "e1",
    "user_id": "42",
    "label": "fraud",
    "analyst": "anna",
    "event_time": 1_511_658_000_000,
    "time": 1_511_740_800_000,
}


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
def test_error_names_the_invalid_field(field: str, value: object):
    assert schema_error(LABEL | {field: value}).startswith(f"{field}: ")


def test_json_lines_are_parsed_and_invalid_rows_rejected(tmp_path: Path):
    file = tmp_path / "labels.jsonl"
    rows = [
        {**LABEL, "user_id": 42, "device_id": None, "note": "ignored"},
        {**LABEL, "time": None, "analyst": "", "known_at": LABEL["time"]},
        {**LABEL, "label": "chargeback"},
    ]
    file.write_text("\n".join([*map(json.dumps, rows), "nonsense", "[]"]) + "\n")
    found = list(read_labels(file, "bank"))
    assert found[:2] == [LABEL, LABEL | {"analyst": "bank"}]
    assert [row.row for row in found[2:]] == [3, 4, 5]
    assert found[2].reason.startswith("label: ") and found[3].reason == "is not a JSON object"
    rejected, count = [], []
    assert list(keep_valid(found, rejected.append, lambda: count.append(1))) == found[:2]
    assert len(rejected) == 3 and len(count) == 5 == feedback.estimate_rows(file)


def test_without_file_labels_are_read_from_the_topic(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def read_topic(settings: Settings, topic: str) -> Iterator[Record]:
        asked.append(topic)
        values = [json.dumps(LABEL).encode(), None, b"nonsense", json.dumps({"label": 1}).encode()]
        for offset, value in enumerate(values):
            yield Record(topic, 0, offset, 0, b"42", value, {})

    monkeypatch.setattr(feedback, "read_topic", read_topic)
    settings = load(topics={"prefix": "own-"})
    found = list(read_file_or_topic(settings, None, "bank"))
    assert asked == ["own-risk-feedback"]
    assert found[0] == LABEL
    assert [row.row for row in found[1:]] == [2, 3, 4]


def test_missing_file_or_other_format_is_rejected(tmp_path: Path):
    with pytest.raises(InputError, match=r"no file|No such"):
        list(read_labels(tmp_path / "none.jsonl", "bank"))
    parquet = tmp_path / "labels.parquet"
    parquet.write_bytes(b"PAR1")
    with pytest.raises(
        InputError, match="does not begin with a JSON object: labels are JSON lines"
    ):
        list(read_labels(parquet, "bank"))


START_MS = 1_511_654_400_000
EVENTS = [
    StoredEvent(user, START_MS + hours * HOUR_MS, f"{user}{hours}", "purchase", amount, 0.5, None)
    for user, hours, amount in [
        ("early", -1, 50.0),
        ("small", 1, 4.0),
        ("large", 2, 40.0),
        ("large", 3, 0.0),
        ("login", 4, 2.0),
    ]
]


def test_both_sides_are_compared_over_the_same_rows() -> None:
    current, edited = [rule()], [rule(when="amount >= 20 or amount == 2")]
    labels = {("large", START_MS + 2 * HOUR_MS): "fraud"}
    found = compare(current, edited, blocks(EVENTS), START_MS, START_MS + DAY_MS, labels)
    assert (found.windows, found.events) == (0, 4)
    assert (found.current.alerts, found.edited.alerts) == (2, 2)
    assert found.edited.precision == 1.0
    shown = orjson.loads(orjson.dumps(as_json(found), option=orjson.OPT_NON_STR_KEYS))
    assert shown["current"]["users"] == 2
    assert shown["edited"]["labelled"] == 1
