"""Training rows from what lies in files or in the topic, by the job's own views in batch mode."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.json as pj

from liveprofile.config import Settings, project_path
from liveprofile.errors import InputError, ServiceError
from liveprofile.replay import open_source
from stack import flink

JOB = Path("jobs/backfill_job.py")
BLOCK_BYTES = 32 << 20
JOB_TIMEOUT_S = 24 * 3_600
_COLUMNS = pa.schema(
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


class Backfilled(NamedTuple):
    events: int | None  # of the files; None for a topic
    rows: int
    folder: str


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
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty: choose another folder for the rows")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".backfill-", dir=out) as name:
        work = Path(name)
        events = None
        origin = ["--topic"]
        if source is not None:
            on_step("reading the events")
            events = _spool(source, mapping, work / "events.jsonl")
            origin = ["--events", str((work / "events.jsonl").resolve())]
        arguments = [*origin, "--rows", str((work / "rows").resolve())]
        if config is not None:
            arguments += ["--config", str(config.resolve())]
        on_step("running the views in batch mode")
        (_run_on_cluster if cluster else _run_embedded)(settings, arguments)
        on_step("writing Parquet")
        rows = _to_parquet(work / "rows", out)
    return Backfilled(events, rows, str(out))


def _spool(source: Path, mapping: Path | None, target: Path) -> int:
    batches, translator = open_source(source, mapping)
    count = 0
    with target.open("wb") as file:
        for batch in batches:
            values = translator.events(batch).values
            file.writelines(value + b"\n" for value in values)
            count += len(values)
    return count


def _run_on_cluster(settings: Settings, arguments: list[str]) -> None:
    rest = settings.flink.rest_url
    job_id = flink.flink_run(rest, project_path(JOB), arguments, python=sys.executable)
    flink.wait_for(rest, job_id, {"FINISHED"}, JOB_TIMEOUT_S)


def _run_embedded(settings: Settings, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "jobs.backfill_job", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise ServiceError(f"the backfill failed: {lines[-1] if lines else 'without a word'}")


def _to_parquet(rows: Path, out: Path) -> int:
    written = 0

    def months() -> Iterator[pa.RecordBatch]:
        nonlocal written
        options = pj.ParseOptions(explicit_schema=_COLUMNS, unexpected_field_behavior="error")
        read_whole = pj.ReadOptions(block_size=4 * BLOCK_BYTES)  # a block is one line at least
        for block in _blocks(sorted(rows.rglob("part-*"))):
            table = pj.read_json(pa.BufferReader(block), read_whole, options)
            for batch in table.to_batches():
                written += len(batch)
                yield _with_month(batch)

    schema = _COLUMNS.append(pa.field("month", pa.string()))
    ds.write_dataset(
        months(),
        out,
        schema=schema,
        format="parquet",
        partitioning=ds.partitioning(pa.schema([("month", pa.string())]), flavor="hive"),
        existing_data_behavior="overwrite_or_ignore",
    )
    return written


def _blocks(files: list[Path]) -> Iterator[bytes]:
    """Whole lines, about BLOCK_BYTES at a time: pyarrow reads a JSON file only at once."""
    for path in files:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block + file.readline()


def _with_month(batch: pa.RecordBatch) -> pa.RecordBatch:
    ends = pc.cast(batch.column("window_end_ms"), pa.timestamp("ms"))
    month = pc.strftime(ends, format="%Y-%m")
    return pa.RecordBatch.from_arrays([*batch.columns, month], names=[*batch.schema.names, "month"])
