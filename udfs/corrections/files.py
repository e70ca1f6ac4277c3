"""The files between a correction and its Flink job: records, and rows of the profile pipeline."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from liveprofile.errors import InputError
from udfs.corrections.late_events import SpooledRecord


def write_records(path: Path, records: Iterable[SpooledRecord]) -> None:
    """Writes a file for jobs.sql.tables.record_file. Raises InputError if the disk is full."""
    lines = (orjson.dumps(record._asdict()) + b"\n" for record in records)
    try:
        with path.open("wb") as file:
            file.writelines(lines)
    except OSError as error:
        raise InputError(
            f"{path}: records of users with late events cannot be written: {error.strerror}. Set"
            " TMPDIR or --work to a folder with more space"
        ) from None


def read_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows in the order in which the job has written them, from files of a single task."""
    for path in sorted(folder.rglob("part-*"), key=_number_of_file):
        with path.open("rb") as file:
            yield from map(orjson.loads, file)


def _number_of_file(path: Path) -> int:
    return int(re.findall(r"\d+", path.name)[-1])
