"""The first rows of a CSV or Parquet file."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from liveprofile.errors import InputError

SAMPLE_ROWS = 10_000
SAMPLE_BYTES = 8 << 20
DELIMITERS = ",;\t|"


def first_of_parquet(source: Path) -> dict[str, list[Any]]:
    try:
        with pq.ParquetFile(source) as file:
            batch = next(file.iter_batches(SAMPLE_ROWS), None)
            names = file.schema_arrow.names
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{source}: {' '.join(str(error).split())[:300]}") from None
    if batch is None:
        return {name: [] for name in names}
    return {name: batch[name].to_pylist() for name in names}


def first_of_csv(source: Path) -> tuple[str, list[list[str]]]:
    """The delimiter and the first rows, all as texts."""
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            lines = file.read(SAMPLE_BYTES).splitlines(keepends=True)[: SAMPLE_ROWS + 1]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: {error}") from None
    # Every line has the delimiter of the file about as often; another occurs in some texts only.
    fewest = {
        each: min((line.count(each) for line in lines[:20]), default=0) for each in DELIMITERS
    }
    delimiter = max(DELIMITERS, key=fewest.__getitem__)
    return delimiter, [row for row in csv.reader(lines, delimiter=delimiter) if row]
