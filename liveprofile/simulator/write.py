"""A shop's days into files: events and labels, JSON lines or Parquet, or standard output."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from liveprofile.errors import InputError
from liveprofile.simulator.shop import Shop
from liveprofile.simulator.tables import ATTRIBUTES, FRAUD, Day

STDOUT = Path("-")


class Written(NamedTuple):
    events: int
    users: int  # ordinary ones
    days: int
    seed: int
    fraud_events: dict[str, int]  # by kind
    seconds: float


class _Sink(Protocol):
    def write(self, day: Day) -> None: ...


class _Lines:
    def __init__(self, file: BinaryIO, labels: bool):
        self._file, self._labels = file, labels

    def write(self, day: Day) -> None:
        self._file.write(day.label_lines() if self._labels else day.lines())


class _Parquet:
    """The events' table with one column `attributes`, as mappings/generated.toml wants it."""

    def __init__(self, path: Path, labels: bool, open_: ExitStack):
        self._path, self._labels, self._open = path, labels, open_
        self._writer: pq.ParquetWriter | None = None

    def write(self, day: Day) -> None:
        table = day.labels if self._labels else nested_attributes(day.events)
        if self._writer is None:
            self._writer = self._open.enter_context(pq.ParquetWriter(self._path, table.schema))
        self._writer.write_table(table)


def nested_attributes(events: pa.Table) -> pa.Table:
    """The table with the attributes' columns in one struct column instead."""
    parts = [events[name].combine_chunks() for name in ATTRIBUTES]
    struct = pa.StructArray.from_arrays(parts, names=list(ATTRIBUTES))
    return events.drop_columns(list(ATTRIBUTES)).append_column("attributes", struct)


def write(
    shop: Shop,
    out: Path,
    labels: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Written:
    """Writes the days one by one; `progress` is told of each day how many events it had.

    `out`: .jsonl, .parquet or "-" for JSON lines on standard output; `labels`: .jsonl, .parquet.
    Raises InputError for another name or a file that can't be written.
    """
    if labels is not None and labels == out:
        raise InputError(f"{labels}: events and labels need a file each")
    started = time.monotonic()
    count, frauds = 0, Counter[str]()
    with ExitStack() as open_:
        sinks = [_sink(out, False, open_)]
        if labels is not None:
            sinks.append(_sink(labels, True, open_))
        for day in shop:
            for sink in sinks:
                sink.write(day)
            count += day.events.num_rows
            fraud = day.labels.filter(pc.equal(day.labels["label"], FRAUD))
            frauds.update(fraud["kind"].to_pylist())
            if progress is not None:
                progress(day.events.num_rows)
    config = shop.config
    return Written(
        count, config.users, config.days, config.seed, dict(sorted(frauds.items())),
        round(time.monotonic() - started, 3),
    )  # fmt: skip


def _sink(path: Path, labels: bool, open_: ExitStack) -> _Sink:
    if path == STDOUT and not labels:
        return _Lines(sys.stdout.buffer, labels)
    try:
        if path.suffix == ".parquet":
            path.open("wb").close()
            return _Parquet(path, labels, open_)
        if path.suffix == ".jsonl":
            return _Lines(open_.enter_context(path.open("wb")), labels)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    raise InputError(f"{path}: a file's name must end in .jsonl or .parquet")
