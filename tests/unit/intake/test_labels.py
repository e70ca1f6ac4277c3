"""Label records: schema, files, and the records of the topic."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from intake import labels as feedback
from intake.labels import keep_valid, read_file_or_topic, read_labels, schema_error
from liveprofile.errors import InputError
from liveprofile.kafka.records import Record
from liveprofile.settings import Settings, load

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


def test_labels_of_erased_events_and_of_no_time_are_rejected(tmp_path: Path):
    texts = ("11-26T01:00:01Z", "13-26T01:00:00Z", "11-26T01:00:00")  # no month, no offset
    times = (LABEL["event_time"], *(f"2017-{each}" for each in texts))
    file = tmp_path / "labels.jsonl"
    file.write_text("\n".join(json.dumps(LABEL | {"event_time": each}) for each in times))
    erased, kept, *no_times = read_labels(file, "bank", {"42": LABEL["event_time"] + 1})
    assert erased == feedback.RejectedLabel(1, "the user was erased after this event")
    assert kept == LABEL | {"event_time": times[1]}
    assert all(each.reason.startswith("event_time") for each in no_times) and len(no_times) == 2


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
