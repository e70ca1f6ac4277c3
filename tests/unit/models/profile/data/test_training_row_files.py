"""Reading training rows from Parquet and JSON lines: formats, invalid rows, unusable events."""

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from liveprofile.errors import InputError
from liveprofile.wire.tokens import EVENT, FIELD
from models.profile.data import training_rows

VALID = {"user_id": "u", "window_end_ms": 5, "events": "", "added": [0] * 10, "sums": [0] * 10}


def test_missing_path_is_rejected(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        training_rows.read(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["events", "added", "sums"])
def test_missing_column_is_rejected(miniature_rows, tmp_path, name):
    table = pq.read_table(miniature_rows / "part-0.parquet")
    pq.write_table(table.drop_columns([name]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=f"column {name} is missing"):
        training_rows.read(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"a": 1}, "user_id is NoneType, must be str"),
        (VALID | {"sums": None}, "sums is NoneType, must be list"),
        (VALID | {"sums": [0] * 9}, "sums must begin with 10 finite numbers"),
        (VALID | {"added": [None] * 10}, "added must begin with 10 finite numbers"),
    ],
)
def test_invalid_value_in_json_lines_is_rejected_with_its_line(tmp_path, row, message):
    (tmp_path / "lines").write_bytes(orjson.dumps(VALID) + b"\n" + orjson.dumps(row))
    with pytest.raises(InputError, match=f"line 2: {message}"):
        training_rows.read(tmp_path / "lines")


def test_duplicate_windows_are_rejected(miniature_rows, tmp_path):
    table = pq.read_table(miniature_rows / "part-0.parquet")
    pq.write_table(pa.concat_tables([table, table.slice(0, 2)]), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="2 duplicate windows"):
        training_rows.read(tmp_path / "b.parquet")


def test_json_lines_and_parquet_give_the_same_streams(miniature_rows, tmp_path):
    rows = pq.read_table(miniature_rows / "part-0.parquet").to_pylist()
    for part in range(2):
        lines = b"".join(orjson.dumps(row) + b"\n" for row in rows[part::2])
        (tmp_path / f"part-{part}").write_bytes(lines)
    (tmp_path / "_SUCCESS").touch()
    from_json, from_parquet = training_rows.read(tmp_path), training_rows.read(miniature_rows)
    assert from_json.fingerprint() == from_parquet.fingerprint()


def test_unusable_events_are_counted_and_left_out(tmp_path):
    payloads = ("[1]", '{"event_type":"view","event_id":"a"}')
    packed = EVENT.join(FIELD.join(["5", "0", "0", text]) for text in payloads)
    baselines = {"added": [1.0] * 41, "sums": [1.0] * 41}
    row = {"user_id": "u", "window_end_ms": 10, "events": packed, **baselines}
    (tmp_path / "rows").write_bytes(orjson.dumps(row))
    streams = training_rows.read(tmp_path / "rows")
    assert (len(streams.time_ms_N), streams.unusable_events) == (1, 1)
