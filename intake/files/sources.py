"""Reads files of any size in batches, in file order or sorted by time.

Batches are Arrow record batches with the additional column ROW: the row's number in the file,
from 0.
"""

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from intake.files.mapping import FileMapping, check_columns
from liveprofile.disk_tables import DiskTables
from liveprofile.errors import InputError

ROW = "__row"
_TIME = "__time"

BATCH_ROWS = 20_000
BLOCK_LINES = 1_000  # of events with vectors, these are some 20 MB
BLOCK_BYTES = 2 << 20


def column_names(path: Path, mapping: FileMapping) -> list[str]:
    with _file_errors(path):
        if mapping.format == "parquet":
            return pq.read_schema(path).names
        return list(mapping.columns) or csv.open_csv(path, *_csv_options(mapping)).schema.names


def rows_estimate(path: Path, is_parquet: bool) -> int:
    """Number of rows: exact for Parquet, else extrapolated from the beginning of the file."""
    with _file_errors(path):
        if is_parquet:
            return pq.read_metadata(path).num_rows
        with path.open("rb") as file:
            head = file.read(BLOCK_BYTES)
        lines = head.count(b"\n")
        return int(path.stat().st_size / len(head) * lines) if lines else 1


def require_json_lines(path: Path, remedy: str) -> None:
    """Raises InputError if the file does not begin with a JSON object."""
    with _file_errors(path), path.open("rb") as file:
        head = file.read(BLOCK_BYTES).strip()
    if head and not head.startswith(b"{"):
        raise InputError(f"{path} does not begin with a JSON object: {remedy}")


def read_lines(path: Path, limit: int | None = None) -> Iterator[list[bytes]]:
    """Unparsed JSON lines in blocks, without empty lines. Raises InputError."""
    with _file_errors(path), path.open("rb") as file:
        lines = itertools.islice(filter(None, map(bytes.strip, file)), limit)
        while block := list(itertools.islice(lines, BLOCK_LINES)):
            yield block


def read_table(path: Path, mapping: FileMapping, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The given columns of a CSV file (all as text) or a Parquet file. Raises InputError."""
    row = 0
    with _file_errors(path):
        if mapping.format == "csv":
            batches: Iterable[pa.RecordBatch] = csv.open_csv(path, *_csv_options(mapping, columns))
        else:
            file = pq.ParquetFile(path, pre_buffer=False)
            batches = file.iter_batches(BATCH_ROWS, columns=columns)
        for block in batches:
            for start in range(0, block.num_rows, BATCH_ROWS):
                batch = block.slice(start, BATCH_ROWS)
                rows = pa.array(np.arange(row, row + batch.num_rows))
                row += batch.num_rows
                yield batch.append_column(ROW, rows)


def _csv_options(
    mapping: FileMapping, columns: list[str] | None = None
) -> tuple[csv.ReadOptions, csv.ParseOptions, csv.ConvertOptions]:
    read = csv.ReadOptions(
        block_size=BLOCK_BYTES,
        column_names=list(mapping.columns) or None,
        use_threads=False,
        encoding=mapping.encoding,
    )
    parse = csv.ParseOptions(delimiter=mapping.delimiter, newlines_in_values=True)
    convert = csv.ConvertOptions(
        include_columns=columns,
        column_types={name: pa.string() for name in columns or ()},
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    return read, parse, convert


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    """Turns Arrow and system errors into an InputError naming the file."""
    if not path.is_file():
        raise InputError(f"no file at {path}")
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        text = " ".join(str(error).split())[:300]
        if "invalid UTF8" in text:
            text += ': set encoding in the mapping, such as "cp1252"'
        raise InputError(f"{path}: {text}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not in the encoding of the mapping: {error}") from None


def sort_by_time(
    batches: Iterable[tuple[pa.RecordBatch, list[int | None]]],
) -> Iterator[pa.RecordBatch]:
    """The rows of batches with their times, by time, then by row; those without a time come first.

    Memory does not grow with the file.
    """
    with DiskTables() as tables:
        for batch, times_ms in batches:
            tables.add("rows", batch.append_column(_TIME, pa.array(times_ms, pa.int64())))
        for batch in tables.read("rows", f"ORDER BY {_TIME} NULLS FIRST, {ROW}"):
            yield batch.drop_columns([_TIME])


def limit_rows(batches: Iterable[pa.RecordBatch], rows: int | None) -> Iterator[pa.RecordBatch]:
    """The first `rows` rows; None: all."""
    for batch in batches:
        if rows is None:
            yield batch
        elif rows > 0:
            yield batch.slice(0, rows)
            rows -= batch.num_rows
        else:
            return


def lookup_table(path: Path, key: str, columns: tuple[str, ...], mapping: str) -> pa.Table:
    """The key (as text) and the columns of a lookup file: CSV with a header, or Parquet.

    Raises InputError if a column is missing.
    """
    with _file_errors(path):
        if path.suffix == ".parquet":
            table = pq.read_table(path)
        else:
            texts = dict.fromkeys((key, *columns), pa.string())
            options = csv.ConvertOptions(column_types=texts, strings_can_be_null=True)
            table = csv.read_csv(path, convert_options=options)
    check_columns(dict.fromkeys((key, *columns), "lookups"), table.column_names, mapping, path)
    table = table.select([key, *columns])
    return table.set_column(0, key, pc.cast(table[key], pa.string())).combine_chunks()
