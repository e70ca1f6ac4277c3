"""Tables of rows on disk that are read again in order, and arrays on disk.

DuckDB sorts the tables and spills to TMPDIR.
"""

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import duckdb
import numpy as np
import pyarrow as pa

from liveprofile.errors import InputError

MEMORY = "128MB"
READ_ROWS = 20_000


class DiskTables:
    """Named tables, each of Arrow batches of one schema.

    Rows beyond MEMORY lie in a temporary folder. Each method raises InputError if the disk is full.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="liveprofile-")
        config = {
            "threads": 1,
            "memory_limit": MEMORY,
            "temp_directory": self._folder.name,
            "preserve_insertion_order": False,
        }
        self._database = duckdb.connect(config=config)
        self._database.execute("SET enable_progress_bar = false")
        self._names: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._database.close()
        self._folder.cleanup()

    def count(self, table: str) -> int:
        return self.query(f"SELECT count(*) FROM {table}")[0][0] if table in self._names else 0

    def add(self, table: str, batch: pa.RecordBatch | np.ndarray) -> None:
        """batch: Arrow, or a numpy array with named fields; may be empty."""
        if isinstance(batch, np.ndarray):
            batch = pa.record_batch({name: batch[name] for name in batch.dtype.names})
        with _disk_errors():
            rows = self._database.from_arrow(pa.Table.from_batches([batch]))
            (rows.insert_into if table in self._names else rows.create)(table)
        self._names.add(table)

    def read(self, table: str, clauses: str = "", *values: Any) -> Iterator[pa.RecordBatch]:
        """Yields the rows by the clauses of a SELECT, such as `ORDER BY time_ms`."""
        if table in self._names:
            # A cursor of its own: others may read or write before this one is at its end.
            with _disk_errors(), self._database.cursor() as cursor:
                cursor.execute("SET enable_progress_bar = false")
                rows = cursor.sql(f"FROM {table} {clauses}", params=values)
                yield from rows.to_arrow_reader(READ_ROWS)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Runs any SQL on the tables and returns its rows."""
        with _disk_errors():
            return self._database.execute(statement).fetchall()


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except duckdb.OperationalError as error:
        raise disk_full_error(error) from None


def disk_full_error(error: Exception) -> InputError:
    """The InputError for a failed write to a temporary file."""
    text = getattr(error, "strerror", None) or str(error).splitlines()[0]
    return InputError(
        f"temporary folder {tempfile.gettempdir()}: {text}; set TMPDIR to a folder with more space"
    )


def mapped_zeros(shape: int | tuple[int, ...], dtype: type) -> np.ndarray:
    """Zeros in a memory-mapped temporary file, which lives as long as the array.

    Raises InputError if the disk is full.
    """
    size = math.prod(np.atleast_1d(shape).tolist()) * np.dtype(dtype).itemsize
    with tempfile.TemporaryFile() as file:
        try:
            # Allocated now: a full disk at the first write to a page would kill the process.
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise disk_full_error(error) from None
        return np.asarray(np.memmap(file, dtype, "r+", shape=shape))
