"""Erased users are taken out of training rows, others stay as they are."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from liveprofile.errors import InputError
from liveprofile.privacy.training_files import erase_rows


def write(file: Path, *users: str, group: int = 2) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"user_id": list(users), "number": list(range(len(users)))})
    pq.write_table(table, file, row_group_size=group)


def test_rows_of_erased_users_leave_and_others_stay(tmp_path: Path) -> None:
    mixed = tmp_path / "month=2026-01" / "a.parquet"
    others, only = tmp_path / "month=2026-02" / "b.parquet", tmp_path / "c.parquet"
    write(mixed, "gone", "kept", "gone", "also", "kept")
    write(others, "kept", "also")
    write(only, "gone", "gone")
    untouched = others.read_bytes()
    found = {each.file: (each.kept, each.erased) for each in erase_rows(tmp_path, {"gone", "x"})}
    assert found == {mixed: (3, 2), others: (2, 0), only: (0, 2)}
    assert pq.read_table(mixed).select(["user_id", "number"]).to_pylist() == [
        {"user_id": "kept", "number": 1},
        {"user_id": "also", "number": 3},
        {"user_id": "kept", "number": 4},
    ]
    assert others.read_bytes() == untouched and not only.exists()
    assert [each.erased for each in erase_rows(tmp_path, {"gone"})] == [0, 0]
    assert ds.dataset(tmp_path).count_rows() == 5


def test_a_killed_run_is_repeated(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    write(file, "gone", "kept")
    (tmp_path / "a.parquet.without-erased").write_bytes(b"half")
    [found] = erase_rows(tmp_path, {"gone"})
    assert (found.kept, found.erased) == (1, 1)
    assert [each.name for each in tmp_path.iterdir()] == ["a.parquet"]


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        list(erase_rows(tmp_path / "none", {"gone"}))
    with pytest.raises(InputError, match="no Parquet files"):
        list(erase_rows(tmp_path, {"gone"}))
    (tmp_path / "a.parquet").write_bytes(b"odd")
    with pytest.raises(InputError, match=r"a\.parquet"):
        list(erase_rows(tmp_path, {"gone"}))
    pq.write_table(pa.table({"item": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no column user_id"):
        list(erase_rows(tmp_path, {"gone"}))
