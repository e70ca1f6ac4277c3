"""Takes erased users out of training rows that exist (`liveprofile model backfill`)."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from liveprofile.errors import InputError

USER = "user_id"
_NEW = ".without-erased"


class FileRows(NamedTuple):
    file: Path
    kept: int
    erased: int


def erase_rows(folder: Path, users: Collection[str]) -> Iterator[FileRows]:
    """Rewrites the Parquet files that have rows of these users; yields each file of the folder.

    A file is replaced in one step, so a kill leaves it whole: repeat the command. A file without
    other rows is removed. Memory: one row group. Raises InputError.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no folder")
    for left in folder.rglob(f"*{_NEW}"):  # of a run that was killed
        left.unlink()
    found = sorted(folder.rglob("*.parquet"))
    if not found:
        raise InputError(f"{folder}: no Parquet files")
    gone = pa.array(sorted(users), pa.string())
    for file in found:
        try:
            yield _erase_file(file, gone)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{file}: {str(error).splitlines()[0]}") from None


def _erase_file(file: Path, gone: pa.Array) -> FileRows:
    with pq.ParquetFile(file) as source:
        if USER not in source.schema_arrow.names:
            raise InputError(f"{file}: no column {USER}: are these training rows?")
        total = source.metadata.num_rows
        groups = range(source.num_row_groups)
        erased = sum(
            pc.sum(pc.is_in(source.read_row_group(group, [USER])[USER], gone)).as_py() or 0
            for group in groups
        )
        if not erased:
            return FileRows(file, total, 0)
        new = file.with_name(f"{file.name}{_NEW}")
        with pq.ParquetWriter(new, source.schema_arrow) as writer:
            for group in groups:
                rows = source.read_row_group(group)
                writer.write_table(rows.filter(pc.invert(pc.is_in(rows[USER], gone))))
    with new.open("rb") as written:
        os.fsync(written.fileno())
    if total == erased:
        new.unlink()
        file.unlink()
    else:
        new.replace(file)
    return FileRows(file, total - erased, erased)
