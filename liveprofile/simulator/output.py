"""Writes a shop's days as events and labels to JSON lines, Parquet or standard output."""

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
from liveprofile.simulator.tables import ATTRIBUTES, FRAUD, ShopDay

STDOUT = Path("-")


class WriteResult(NamedTuple):
    """Summary of a written shop; `liveprofile events generate` prints it as JSON."""

    events: int
    users: int  # ordinary users
    days: int
    seed: int
    fraud_events: dict[str, int]  # by kind
    seconds: float


class _DayWriter(Protocol):
    def write(self, day: ShopDay) -> None: ...


class _JsonLinesWriter:
    def __init__(self, file: BinaryIO, labels: bool):
        self._file, self._labels = file, labels

    def write(self, day: ShopDay) -> None:
        self._file.write(day.label_lines() if self._labels else day.lines())


class _ParquetWriter:
    """Writes the event table with one struct column `attributes`: see mappings/generated.toml."""

    def __init__(self, path: Path, labels: bool, stack: ExitStack):
        self._path, self._labels, self._stack = path, labels, stack
        self._writer: pq.ParquetWriter | None = None

    def write(self, day: ShopDay) -> None:
        table = day.labels if self._labels else nest_attributes(day.events)
        if self._writer is None:
            self._writer = self._stack.enter_context(pq.ParquetWriter(self._path, table.schema))
        self._writer.write_table(table)


def nest_attributes(events: pa.Table) -> pa.Table:
    """The table with its attribute columns combined into one struct column `attributes`."""
    parts = [events[name].combine_chunks() for name in ATTRIBUTES]
    struct = pa.StructArray.from_arrays(parts, names=list(ATTRIBUTES))
    return events.drop_columns(list(ATTRIBUTES)).append_column("attributes", struct)


def write_shop(
    shop: Shop,
    out: Path,
    labels: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> WriteResult:
    """Writes the shop day by day; `progress` receives the number of events of each day.

    `out`: .jsonl, .parquet, or "-" for JSON lines on standard output. `labels`: .jsonl or
    .parquet. Raises InputError for another file name or a file that cannot be written.
    """
    if labels is not None and labels == out:
        raise InputError(f"{labels}: events and labels need a file each")
    started = time.monotonic()
    count, fraud_events = 0, Counter[str]()
    with ExitStack() as stack:
        writers = [_open_writer(out, False, stack)]
        if labels is not None:
            writers.append(_open_writer(labels, True, stack))
        for day in shop:
            for writer in writers:
                writer.write(day)
            count += day.events.num_rows
            fraud = day.labels.filter(pc.equal(day.labels["label"], FRAUD))
            fraud_events.update(fraud["kind"].to_pylist())
            if progress is not None:
                progress(day.events.num_rows)
    config = shop.config
    return WriteResult(
        events=count,
        users=config.users,
        days=config.days,
        seed=config.seed,
        fraud_events=dict(sorted(fraud_events.items())),
        seconds=round(time.monotonic() - started, 3),
    )


def _open_writer(path: Path, labels: bool, stack: ExitStack) -> _DayWriter:
    if path == STDOUT and not labels:
        return _JsonLinesWriter(sys.stdout.buffer, labels)
    try:
        if path.suffix == ".parquet":
            path.open("wb").close()
            return _ParquetWriter(path, labels, stack)
        if path.suffix == ".jsonl":
            return _JsonLinesWriter(stack.enter_context(path.open("wb")), labels)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    raise InputError(f"{path}: the file name must end in .jsonl or .parquet")
