"""Training rows from what lies in files or in the topic, by the job's own views in batch mode."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.json as pj

from liveprofile.config import Settings
from liveprofile.errors import InputError, ServiceError
from liveprofile.features.entity import read as read_lists
from liveprofile.flink import rest, submission
from liveprofile.ingest.replay import open_source
from liveprofile.labels.feedback import Rejected, read_given, valid
from liveprofile.resources import product_path
from liveprofile.wire.scored_events import read_rows

JOB = Path("jobs/backfill_job.py")
BLOCK_BYTES = 32 << 20
BATCH_ROWS = 10_000
JOB_TIMEOUT_S = 24 * 3_600
ANALYST = "unknown"  # of a label in a file that names none: training doesn't ask who said it


class Lane(NamedTuple):
    """What a lane's job writes, and what of it becomes Parquet."""

    columns: pa.Schema
    kept: pa.Schema
    keep: Callable[[pa.RecordBatch], pa.RecordBatch]


class Backfilled(NamedTuple):
    events: int | None  # of the files; None for a topic
    rows: int
    folder: str
    labels: int | None = None  # None: no lane that reads labels
    copies: int = 0  # of events; they are no rows


def backfill(
    settings: Settings,
    out: Path,
    *,
    config: Path | None,
    source: Path | None,
    mapping: Path | None = None,
    cluster: bool = True,
    on_step: Callable[[str], None] = lambda step: None,
) -> Backfilled:
    """Writes Parquet to `out`, one folder a month (by window end); `out` must not hold rows yet.

    source: CSV, Parquet or JSON lines as `liveprofile replay` takes them; None: the input topic as
    it is now. cluster: on flink.rest_url, whose machines must see the folder of `out`; else in an
    embedded Flink. Memory stays flat however many rows there are.
    Raises InputError for files, ServiceError when the job fails.
    """
    with _work_folder(out) as work:
        events, origin = _origin(source, mapping, work, on_step, numbered=False)
        _run(settings, origin, work, config, cluster, on_step)
        read, written = _to_parquet(work, out, WINDOWS)
    return Backfilled(events, written, str(out), copies=read - written)


def backfill_events(
    settings: Settings,
    out: Path,
    *,
    config: Path | None,
    source: Path | None,
    labels: Path | None,
    mapping: Path | None = None,
    cluster: bool = True,
    on_step: Callable[[str], None] = lambda step: None,
    on_rejected: Callable[[Rejected], None] = lambda row: None,
) -> Backfilled:
    """As `backfill`, rows of single events (by the event's month) with what was known of each.

    labels: JSON lines or Parquet as `liveprofile feedback send` takes them; None: the topic
    risk-feedback as it is now. on_rejected: told of each label that can't be used.
    """
    with _work_folder(out) as work:
        on_step("reading the labels")
        file = work / "labels.txt"
        given = valid(read_given(settings, labels, ANALYST), on_rejected)
        count = _write_lines(file, map(orjson.dumps, given), numbered=True)
        events, origin = _origin(source, mapping, work, on_step, numbered=True)
        arguments = [*origin, "--labels", str(file.resolve())]
        _run(settings, arguments, work, config, cluster, on_step)
        read, written = _to_parquet(work, out, EVENTS)
    return Backfilled(events, written, str(out), count, read - written)


@contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty: choose another folder for the rows")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".backfill-", dir=out) as name:
        yield Path(name)


def _origin(
    source: Path | None,
    mapping: Path | None,
    work: Path,
    on_step: Callable[[str], None],
    *,
    numbered: bool,
) -> tuple[int | None, list[str]]:
    """How many events the files have, and the job's arguments."""
    if source is None:
        return None, ["--topic"]
    on_step("reading the events")
    batches, translator = open_source(source, mapping)
    values = (value for batch in batches for value in translator.events(batch).values)
    file = work / "events.txt"
    return _write_lines(file, values, numbered=numbered), ["--events", str(file.resolve())]


def _write_lines(file: Path, values: Iterable[bytes], *, numbered: bool) -> int:
    """numbered: as jobs.sql.tables.numbered_file reads them."""
    count = 0
    with file.open("wb") as lines:
        for count, value in enumerate(values, 1):
            lines.write(b"%d\t%s\n" % (count, value) if numbered else value + b"\n")
    return count


def _run(
    settings: Settings,
    arguments: list[str],
    work: Path,
    config: Path | None,
    cluster: bool,
    on_step: Callable[[str], None],
) -> None:
    arguments = [*arguments, "--rows", str((work / "rows").resolve())]
    if config is not None:
        arguments += ["--config", str(config.resolve())]
    on_step("running the views in batch mode")
    (_run_on_cluster if cluster else _run_embedded)(settings, arguments)
    on_step("writing Parquet")


def _run_on_cluster(settings: Settings, arguments: list[str]) -> None:
    rest_url = settings.flink.rest_url
    job_id = submission.flink_run(rest_url, product_path(JOB), arguments, python=sys.executable)
    rest.wait_for(rest_url, job_id, {"FINISHED"}, JOB_TIMEOUT_S)


def _run_embedded(settings: Settings, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "jobs.backfill_job", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServiceError(
            f"the backfill failed: {rest.failure_reason(done.stderr) or 'without a word'}"
        )


def _to_parquet(work: Path, out: Path, lane: Lane) -> tuple[int, int]:
    """How many rows the job wrote, and how many of them are kept."""
    read = written = 0

    def months() -> Iterator[pa.RecordBatch]:
        nonlocal read, written
        options = pj.ParseOptions(explicit_schema=lane.columns, unexpected_field_behavior="error")
        read_whole = pj.ReadOptions(block_size=4 * BLOCK_BYTES)  # a block is one line at least
        for block in _blocks(sorted((work / "rows").rglob("part-*"))):
            table = pj.read_json(pa.BufferReader(block), read_whole, options)
            for batch in table.to_batches(max_chunksize=BATCH_ROWS):
                kept = lane.keep(batch)
                read, written = read + len(batch), written + len(kept)
                yield kept

    ds.write_dataset(
        months(),
        out,
        schema=lane.kept,
        format="parquet",
        partitioning=ds.partitioning(pa.schema([_MONTH]), flavor="hive"),
        existing_data_behavior="overwrite_or_ignore",
    )
    return read, written


def _blocks(files: list[Path]) -> Iterator[bytes]:
    """Whole lines, about BLOCK_BYTES at a time: pyarrow reads a JSON file only at once."""
    for path in files:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block + file.readline()


def _month(time_ms: pa.Array) -> pa.Array:
    return pc.strftime(pc.cast(time_ms, pa.timestamp("ms")), format="%Y-%m")


def _window_rows(batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = [*batch.columns, _month(batch.column("window_end_ms"))]
    return pa.RecordBatch.from_arrays(columns, schema=WINDOWS.kept)


def _event_rows(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A copy of an event is left out, as the job leaves it out (udfs.scoring.batch)."""
    events = read_rows(batch["user_id"].to_pylist(), batch["parts"].to_pylist())
    columns = [
        batch["user_id"], pa.array(events.event_id), pa.array(events.event_type),
        pa.array(events.event_ms), pa.array(events.amount), batch["parts"],
        _month(pa.array(events.event_ms)),
    ]  # fmt: skip
    rows = pa.RecordBatch.from_arrays(columns, schema=EVENTS.kept)
    return rows.filter(pa.array(~read_lists(events).duplicates()))


_MONTH = pa.field("month", pa.string())
_WINDOW_COLUMNS = pa.schema(
    [
        ("user_id", pa.string()),
        ("window_start_ms", pa.int64()),
        ("window_end_ms", pa.int64()),
        ("events", pa.string()),
        ("history", pa.string()),
        ("added", pa.list_(pa.float64())),
        ("sums", pa.list_(pa.float64())),
    ]
)
_EVENT_COLUMNS = pa.schema(
    [
        ("user_id", pa.string()),
        ("event_id", pa.string()),
        ("event_type", pa.string()),
        ("event_ms", pa.int64()),
        ("amount", pa.float64()),
        ("parts", pa.string()),
    ]
)
WINDOWS = Lane(_WINDOW_COLUMNS, _WINDOW_COLUMNS.append(_MONTH), _window_rows)
EVENTS = Lane(
    pa.schema([("user_id", pa.string()), ("parts", pa.string())]),
    _EVENT_COLUMNS.append(_MONTH),
    _event_rows,
)
