"""The first rows of a CSV or Parquet file."""

from __future__ import annotations

import codecs
import contextlib
import csv
from pathlib import Path
from typing import Any, NamedTuple

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


class FirstLines(NamedTuple):
    """The beginning of a CSV, all texts."""

    encoding: str
    delimiter: str
    rows: list[list[str]]


def first_of_csv(source: Path) -> FirstLines:
    """Finds the encoding and the delimiter by what the file begins with. Raises InputError."""
    try:
        with source.open("rb") as file:
            head = file.read(SAMPLE_BYTES)
    except OSError as error:
        raise InputError(f"{source}: {error}") from None
    encoding, text = _decoded(source, head)
    lines = text.splitlines(keepends=True)[: SAMPLE_ROWS + 1]
    # Every line has the delimiter of the file about as often; another occurs in some texts only.
    fewest = {
        each: min((line.count(each) for line in lines[:20]), default=0) for each in DELIMITERS
    }
    delimiter = max(DELIMITERS, key=fewest.__getitem__)
    rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
    return FirstLines(encoding, delimiter, rows)


def _decoded(source: Path, head: bytes) -> tuple[str, str]:
    """The encoding and the text; the last character may be cut."""
    # A Windows encoding has a character for nearly every byte, but texts have no zero.
    windows = [] if b"\0" in head else ["cp1252"]
    encodings = ["utf-16"] if head.startswith((b"\xff\xfe", b"\xfe\xff")) else ["utf-8", *windows]
    for encoding in encodings:
        with contextlib.suppress(UnicodeDecodeError):
            text = codecs.getincrementaldecoder(encoding)().decode(head)
            return encoding, text.removeprefix("\ufeff")
    raise InputError(f"{source} is in none of the encodings {', '.join(encodings)}")
