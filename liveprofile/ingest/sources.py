"""Reads files of any size in batches, in file order or sorted by time.

Batches are Arrow record batches with the additional column ROW: the row's number in the file,
from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from liveprofile.disk_tables import DiskTables
from liveprofile.errors import InputError
from liveprofile.ingest.mapping import FileMapping, check_columns

ROW = "__row"
LINE = "__line"
_TIME = "__time"

BATCH_ROWS = 20_000
BLOCK_BYTES = 2 << 20

# Formats that are not JSON lines, by suffix and by the first bytes of a file.
OTHER_SUFFIXES = {
    ".csv": "CSV", ".tsv": "tab-separated", ".parquet": "Parquet", ".pq": "Parquet",
    ".avro": "Avro", ".orc": "ORC", ".xls": "Excel", ".xlsx": "Excel",
    ".gz": "compressed", ".zip": "compressed", ".bz2": "compressed", ".xz": "compressed",
    ".zst": "compressed",
}  # fmt: skip
OTHER_FIRST_BYTES = {
    b"PAR1": "Parquet", b"Obj\x01": "Avro", b"ORC": "ORC", b"\x1f\x8b": "compressed",
    b"PK\x03\x04": "compressed", b"BZh": "compressed", b"\xfd7zXZ": "compressed",
    b"\x28\xb5\x2f\xfd": "compressed",
}  # fmt: skip

# What to do with a file that no mapping can read either.
REMEDIES = {
    "compressed": "unpack it first",
    **dict.fromkeys(("Excel", "Avro", "ORC"), "save it as CSV or Parquet first"),
}

TimesOfBatch = Callable[[pa.RecordBatch], pa.Int64Array]


def column_names(path: Path, mapping: FileMapping) -> list[str] | None:
    """The file's columns; None for JSON lines, whose lines may have different fields."""
    with _file_errors(path):
        if mapping.format == "parquet":
            return pq.read_schema(path).names
        if mapping.format == "csv":
            return list(mapping.columns) or csv.open_csv(path, *_csv_options(mapping)).schema.names
    return None


def rows_estimate(path: Path, format: str) -> int:
    """Number of rows: exact for Parquet, else extrapolated from the beginning of the file."""
    with _file_errors(path):
        if format == "parquet":
            return pq.read_metadata(path).num_rows
        with path.open("rb") as file:
            head = file.read(BLOCK_BYTES)
        lines = head.count(b"\n")
        return int(path.stat().st_size / len(head) * lines) if lines else 1


def require_json_lines(path: Path, remedy: str) -> None:
    """Raises InputError if the file's suffix or its first bytes are those of another format.

    remedy: what to do with a CSV or Parquet file.
    """
    if found := format_of(path):
        raise InputError(f"{path} is {found}, not JSON lines: {REMEDIES.get(found, remedy)}")


def format_of(path: Path) -> str | None:
    """The format that a file's first bytes or its suffix tell; None if neither does."""
    with _file_errors(path), path.open("rb") as file:
        head = file.read(8)
    by_suffix = OTHER_SUFFIXES.get(path.suffix.lower())
    if by_suffix == "Excel":  # its bytes are those of a compressed file
        return by_suffix
    by_bytes = (name for first, name in OTHER_FIRST_BYTES.items() if head.startswith(first))
    return next(by_bytes, None) or by_suffix


def read_lines(path: Path) -> Iterator[pa.RecordBatch]:
    """Unparsed JSON lines in the column LINE, without empty lines. Raises InputError."""
    row = 0
    with _file_errors(path), path.open("rb") as file:
        while block := file.readlines(BLOCK_BYTES):
            lines = [line.strip() for line in block]
            numbered = [(row + index, line) for index, line in enumerate(lines) if line]
            row += len(lines)
            if numbered:
                rows, texts = zip(*numbered, strict=True)
                yield pa.record_batch(
                    {LINE: pa.array(texts, pa.binary()), ROW: pa.array(rows, pa.int64())}
                )


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
    batches: Iterable[pa.RecordBatch], times: TimesOfBatch
) -> Iterator[pa.RecordBatch]:
    """The same rows sorted by time, then by row number; rows without a time come first.

    Memory does not grow with the file.
    """
    with DiskTables() as tables:
        for batch in batches:
            tables.add("rows", batch.append_column(_TIME, times(batch)))
        order = f"ORDER BY {_TIME} NULLS FIRST, {ROW}"
        for batch in tables.read("rows", order):
            yield batch.drop_columns([_TIME])


def limit_rows(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """The first `rows` rows."""
    for batch in batches:
        if rows <= 0:
            return
        yield batch.slice(0, rows)
        rows -= batch.num_rows


def lookup_table(path: Path, key: str, columns: tuple[str, ...], mapping: str) -> pa.Table:
    """The key (as text) and the columns of a lookup file: CSV with a header, or Parquet.

    Raises InputError if a column is missing.
    """
    selected, is_parquet = [key, *columns], path.suffix == ".parquet"
    with _file_errors(path):
        names = pq.read_schema(path).names if is_parquet else csv.open_csv(path).schema.names
        check_columns(dict.fromkeys(selected, "lookups"), names, mapping, path)
        if is_parquet:
            table = pq.read_table(path, columns=selected)
        else:
            convert = csv.ConvertOptions(
                include_columns=selected,
                column_types={name: pa.string() for name in selected},
                strings_can_be_null=True,
            )
            table = csv.read_csv(path, convert_options=convert)
    key_text = pc.cast(table[key], pa.string())
    return table.set_column(table.column_names.index(key), key, key_text).combine_chunks()
