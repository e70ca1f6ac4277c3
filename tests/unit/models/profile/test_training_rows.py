"""Training rows: streams are independent of the files, and memory does not grow with the rows."""

import errno
import os
import tempfile
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.load.workload import Workload
from liveprofile.errors import InputError
from liveprofile.events.window import parse_training_window
from liveprofile.features.baselines import SUMS
from liveprofile.wire.tokens import EVENT, FIELD, TYPE_INDEX
from models.profile.data import training_rows
from models.profile.data.examples import build_corpus
from models.profile.encoding import Vocabulary
from models.trained_users import user_key
from tests.unit.models.profile.miniature import daily_batches, rows_table


def make_rows(events=3_000, users=40, days=12):
    workload = Workload(events, users, 1.05, days * 24)
    return rows_table(daily_batches(workload.messages()))


@pytest.fixture(scope="module")
def table():
    return make_rows()


@pytest.fixture
def small_runs(monkeypatch):
    """Reads many parts of few windows."""
    monkeypatch.setattr(training_rows, "BATCH_ROWS", 17)
    monkeypatch.setattr(training_rows, "PART_WINDOWS", 5)


def write_parquet(table, file):
    pq.write_table(table, file)
    return file


def sorted_rows(table):
    return sorted(
        table.to_pylist(), key=lambda row: (user_key(row["user_id"]), row["window_end_ms"])
    )


def test_streams_equal_rows_sorted_in_memory(table, tmp_path, small_runs):
    streams = training_rows.read(write_parquet(table, tmp_path / "rows.parquet"))
    expected = sorted_rows(table)
    tokens = [token for row in expected for token in parse_training_window(row["events"]).tokens]
    found = (
        streams.time_ms_N.tolist(),
        streams.type_N.tolist(),
        [streams.items[item] for item in streams.item_N],
        [streams.categories[category] for category in streams.category_N],
        streams.amount_N.tolist(),
    )
    assert list(zip(*found, strict=True)) == tokens
    assert streams.items == sorted({token.item for token in tokens})
    users = list(dict.fromkeys(row["user_id"] for row in expected))
    assert (streams.users, len(streams.user_W)) == (len(users), len(expected))
    assert [users[user] for user in streams.user_W] == [row["user_id"] for row in expected]
    assert streams.end_ms_W.tolist() == [row["window_end_ms"] for row in expected]
    assert (streams.first_W[1:] == streams.last_W[:-1]).all()
    for name, column in (("added", streams.added_WS), ("sums", streams.sums_WS)):
        assert column.tolist() == [row[name][: len(SUMS)] for row in expected]
    last_ms, last_purchases_ms = {}, []
    for row in expected:
        for token in parse_training_window(row["events"]).tokens:
            if token.type_index == TYPE_INDEX["purchase"]:
                last_ms[row["user_id"]] = token.time_ms
        last_purchases_ms.append(last_ms.get(row["user_id"], 0))
    assert 0 < np.count_nonzero(last_purchases_ms) < len(table)
    assert streams.last_purchase_ms_W.tolist() == last_purchases_ms


def test_other_files_with_the_same_rows_give_the_same_streams(
    table, tmp_path, monkeypatch, request
):
    whole = training_rows.read(write_parquet(table, tmp_path / "rows.parquet"))
    request.getfixturevalue("small_runs")
    mixed = table.take(np.random.default_rng(0).permutation(len(table)))
    folder = tmp_path / "rows"
    folder.mkdir()
    write_parquet(mixed.slice(0, 100), folder / "a.parquet")
    write_parquet(mixed.slice(100, 90), folder / "b.parquet")
    write_parquet(mixed.slice(190), folder / "c.parquet")
    (folder / "_SUCCESS").touch()
    assert training_rows.read(folder).fingerprint() == whole.fingerprint()
    place, added = table.schema.get_field_index("sums"), table["added"].combine_chunks()
    changed = write_parquet(table.set_column(place, "sums", added), tmp_path / "c.parquet")
    assert training_rows.read(changed).fingerprint() != whole.fingerprint()


def test_duplicate_windows_in_different_files_are_rejected(table, tmp_path, small_runs):
    write_parquet(table, tmp_path / "a.parquet")
    write_parquet(table.slice(20, 30), tmp_path / "b.parquet")
    message = r"30 duplicate windows \(same user and end\), one ends at 1"
    with pytest.raises(InputError, match=message):
        training_rows.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("user_id", 7, "user_id is int64, must be string"),
        ("window_end_ms", None, "row 301: window_end_ms is missing"),
        ("sums", None, "row 301: sums must begin with 10 finite numbers"),
        ("sums", [1.0] * 9, "row 301: sums must begin with 10 finite numbers"),
        ("added", [None] * 10, "row 301: added must begin with 10 finite numbers"),
        ("added", [float("nan")] * 10, "row 301: added must begin with 10 finite numbers"),
        ("added", 1.0, "added is double, not a list"),
    ],
)
def test_invalid_value_is_rejected_with_its_row(table, tmp_path, name, wrong, message):
    values = table[name].to_pylist()
    values[300:] = [wrong] * (len(table) - 300)
    if name == "user_id" or wrong == 1.0:
        values = [wrong] * len(table)
    place = table.schema.get_field_index(name)
    file = write_parquet(table.set_column(place, name, pa.array(values)), tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=rf"rows\.parquet: {message}"):
        training_rows.read(file)


def test_missing_column_or_file_is_rejected(table, tmp_path):
    pq.write_table(table.drop_columns(["sums"]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="column sums is missing"):
        training_rows.read(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no such file"):
        training_rows.read(tmp_path / "nothing")


def test_unusable_events_are_counted_and_left_out(tmp_path):
    payloads = ("[1]", '{"event_type":"view","event_id":"a"}')
    packed = EVENT.join(FIELD.join(["5", "a", "0", "0", text]) for text in payloads)
    baselines = {"added": [1.0] * 41, "sums": [1.0] * 41}
    row = {"user_id": "u", "window_end_ms": 10, "events": packed, **baselines}
    streams = training_rows.read(write_parquet(pa.Table.from_pylist([row]), tmp_path / "rows"))
    assert (len(streams.time_ms_N), streams.unusable_events) == (1, 1)


def test_reading_leaves_no_temporary_file(table, tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(work))
    streams = training_rows.read(write_parquet(table, tmp_path / "rows.parquet"))
    assert list(work.iterdir()) == []
    assert streams.time_ms_N.min() > 0


def test_full_disk_raises_input_error(table, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match="No space left on device; set TMPDIR"):
        training_rows.read(write_parquet(table, tmp_path / "rows.parquet"))


def test_memory_grows_by_the_place_of_each_window_only(tmp_path, small_runs):
    table = make_rows(events=1_000, users=15)

    def peak_bytes(copies):
        user_id = table.schema.get_field_index("user_id")
        users = [[f"{user}-{copy}" for user in table["user_id"].to_pylist()] for copy in copies]
        tables = [table.set_column(user_id, "user_id", [names]) for names in users]
        file = write_parquet(pa.concat_tables(tables), tmp_path / "rows.parquet")
        tracemalloc.start()
        streams = training_rows.read(file)
        build_corpus(streams, Vocabulary(["i000001"], 8), Vocabulary(["c001"], 4))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(streams.user_W) == len(copies) * len(table)
        return peak

    growth = peak_bytes(range(10)) - peak_bytes(range(1))
    assert growth < 64 * 9 * len(table)  # a window has ten times as many bytes on disk
