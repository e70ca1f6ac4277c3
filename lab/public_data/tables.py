"""Reads columns of published files. What is missing is named in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from liveprofile.errors import InputError

Keep = Callable[[pa.RecordBatch], pa.RecordBatch]


def read_csv(
    file: Path, columns: dict[str, pa.DataType], keep: Keep = lambda batch: batch
) -> pd.DataFrame:
    """The columns of a CSV file with a header.

    keep: filters each batch, so that only what it returns is in memory. Raises InputError.
    """
    convert = csv.ConvertOptions(include_columns=list(columns), column_types=columns)
    try:
        with csv.open_csv(file) as reader:
            _require(file, columns, reader.schema.names)
        with csv.open_csv(file, convert_options=convert) as reader:
            batches = [keep(batch) for batch in reader]
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file}: {_line(error)}") from None
    schema = pa.schema(list(columns.items()))
    return pa.Table.from_batches(batches, schema).to_pandas()


def read_parquet(file: Path, columns: list[str]) -> pd.DataFrame:
    """The columns of a Parquet file. Raises InputError."""
    try:
        _require(file, columns, pq.read_schema(file).names)
        return pq.read_table(file, columns=columns).to_pandas()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file}: {_line(error)}") from None


def _require(file: Path, columns: dict | list, names: list[str]) -> None:
    for column in columns:
        if column not in names:
            raise InputError(f"{file}: no column {column!r}; it has {', '.join(names)}")


def _line(error: Exception) -> str:
    return " ".join(str(error.args[-1]).split())[:300]
