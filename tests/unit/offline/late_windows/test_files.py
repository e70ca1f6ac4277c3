from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from liveprofile.errors import InputError
from offline.late_windows.late_events import SpooledRecord, read_rows, write_records


def record(number: int) -> SpooledRecord:
    return SpooledRecord('{"a":"\\n ü"}\n', "events", 1, number, 5, number)


def test_each_record_is_a_line(tmp_path: Path):
    file = tmp_path / "records.json"
    write_records(file, map(record, range(3)))
    lines = file.read_bytes().splitlines()
    assert [SpooledRecord(**orjson.loads(line)) for line in lines] == [record(n) for n in range(3)]


def test_full_disk_is_an_error_that_names_the_file():
    with pytest.raises(InputError, match=r"/dev/full: records .* No space left"):
        write_records(Path("/dev/full"), map(record, range(10_000)))


def test_rows_are_read_in_the_order_of_the_files(tmp_path: Path):
    for number in range(12):
        rows = [{"number": 2 * number}, {"number": 2 * number + 1}]
        (tmp_path / f"part-7f-task-0-file-{number}").write_bytes(
            b"\n".join(map(orjson.dumps, rows))
        )
    assert [row["number"] for row in read_rows(tmp_path)] == list(range(24))
