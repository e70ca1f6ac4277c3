"""Reading a file of any size in batches, in its own order or in order of time.

Batches are Arrow record batches with one more column, ROW: the row's place in the file, from 0.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from liveprofile.errors import InputError
from liveprofile.ingest.mapping import Mapping

ROW = "__row"
LINE = "__line"
_TIME = "__time"

BATCH_ROWS = 20_000
BLOCK_BYTES = 2 << 20
# One sorted run on disk; merging holds MERGE_ROWS of each run in memory.
RUN_ROWS = 1_000_000
MERGE_ROWS = 16_384

Times = Callable[[pa.RecordBatch], pa.Int64Array]


def column_names(path: Path, mapping: Mapping) -> list[str] | None:
    """The file's columns; None for JSON lines, which may have others on each line."""
    with _named(path):
        if mapping.format == "parquet":
            return pq.read_schema(path).names
        if mapping.format == "csv":
            return list(mapping.columns) or csv.open_csv(path, *_csv_options(mapping)).schema.names
    return None


def rows_estimate(path: Path, format: str) -> int:
    """For a progress bar: exact for Parquet, else from the file's beginning."""
    with _named(path):
        if format == "parquet":
            return pq.read_metadata(path).num_rows
        with path.open("rb") as file:
            head = file.read(BLOCK_BYTES)
        lines = head.count(b"\n")
        return int(path.stat().st_size / len(head) * lines) if lines else 1


def read_lines(path: Path) -> Iterator[pa.RecordBatch]:
    """JSON lines as they are, in the column LINE; empty lines are left out."""
    row = 0
    with _named(path), path.open("rb") as file:
        while block := file.readlines(BLOCK_BYTES):
            lines = [line.strip() for line in block]
            full = [(row + at, line) for at, line in enumerate(lines) if line]
            row += len(lines)
            if full:
                rows, texts = zip(*full, strict=True)
                yield pa.record_batch(
                    {LINE: pa.array(texts, pa.binary()), ROW: pa.array(rows, pa.int64())}
                )


def read_table(path: Path, mapping: Mapping, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Only the named columns of a CSV (all as text) or Parquet file. Raises InputError."""
    row = 0
    with _named(path):
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
    mapping: Mapping, columns: list[str] | None = None
) -> tuple[csv.ReadOptions, csv.ParseOptions, csv.ConvertOptions]:
    read = csv.ReadOptions(
        block_size=BLOCK_BYTES, column_names=list(mapping.columns) or None, use_threads=False
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


class _named:
    """Turns what Arrow and the system say about a file into one line that names it."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> None:
        if not self._path.is_file():
            raise InputError(f"no file at {self._path}")

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (pa.ArrowException, OSError)):
            text = " ".join(str(error).split())[:300]
            raise InputError(f"{self._path}: {text}") from None


def in_order_of_time(
    batches: Iterable[pa.RecordBatch], times: Times, run_rows: int = RUN_ROWS
) -> Iterator[pa.RecordBatch]:
    """The same rows sorted by time, then by row; rows without a time first.

    An external merge sort: sorted runs of `run_rows` rows go to a temporary folder, so memory
    stays flat; a file of one run never touches the disk.
    """
    with tempfile.TemporaryDirectory(prefix="liveprofile-sort-") as folder:
        runs: list[Path] = []
        batches = iter(batches)
        while True:
            run = _sorted_run(batches, times, run_rows)
            if run is None:
                break
            if not runs and run.num_rows < run_rows:
                yield from run.drop_columns([_TIME]).to_batches(BATCH_ROWS)
                return
            runs.append(Path(folder) / f"{len(runs)}.arrow")
            with ipc.new_file(str(runs[-1]), run.schema) as sink:
                sink.write_table(run, max_chunksize=MERGE_ROWS)
            del run
        for merged in _merge([_read_run(run) for run in runs]):
            yield from merged.drop_columns([_TIME]).combine_chunks().to_batches(BATCH_ROWS)


def _sorted_run(batches: Iterator[pa.RecordBatch], times: Times, run_rows: int) -> pa.Table | None:
    taken, rows = [], 0
    for batch in batches:
        time_ms = times(batch).fill_null(-(2**63))
        taken.append(batch.append_column(_TIME, time_ms))
        rows += batch.num_rows
        if rows >= run_rows:
            break
    if not taken:
        return None
    return _sort(pa.Table.from_batches(taken))


def _sort(table: pa.Table) -> pa.Table:
    return table.sort_by([(_TIME, "ascending"), (ROW, "ascending")]).combine_chunks()


def _read_run(path: Path) -> Iterator[pa.Table]:
    with pa.memory_map(str(path)) as source:
        reader = ipc.open_file(source)
        for index in range(reader.num_record_batches):
            yield pa.Table.from_batches([reader.get_batch(index)])


def _merge(runs: list[Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """Of each run's next batch all rows up to the earliest batch end are ready to go out."""
    heads = {run: table for run, it in enumerate(runs) if (table := next(it, None)) is not None}
    while heads:
        ends = {run: head[_TIME][-1].as_py() for run, head in heads.items()}
        bound = min(ends.values())
        ready = []
        for run, head in list(heads.items()):
            count = int(np.searchsorted(head[_TIME].to_numpy(), bound, side="right"))
            ready.append(head.slice(0, count))
            rest = head.slice(count)
            following = rest if rest.num_rows else next(runs[run], None)
            if following is None:
                del heads[run]
            else:
                heads[run] = following
        yield _sort(pa.concat_tables(ready))


def limited(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """The first `rows` rows."""
    for batch in batches:
        if rows <= 0:
            return
        yield batch.slice(0, rows)
        rows -= batch.num_rows


def lookup_table(path: Path, key: str, columns: tuple[str, ...], mapping: str) -> pa.Table:
    """The key (as text) and the columns of a lookup file, CSV with a header or Parquet."""
    with _named(path):
        if path.suffix == ".parquet":
            names = pq.read_schema(path).names
        else:
            names = csv.open_csv(path).schema.names
        for column in itertools.chain([key], columns):
            if column not in names:
                raise InputError(
                    f"mapping {mapping}: lookups: {path.name} has no column {column!r};"
                    f" it has {', '.join(names)}"
                )
        wanted = [key, *columns]
        if path.suffix == ".parquet":
            table = pq.read_table(path, columns=wanted)
        else:
            convert = csv.ConvertOptions(
                include_columns=wanted,
                column_types={name: pa.string() for name in wanted},
                strings_can_be_null=True,
            )
            table = csv.read_csv(path, convert_options=convert)
    key_text = pc.cast(table[key], pa.string())
    return table.set_column(table.column_names.index(key), key, key_text).combine_chunks()
