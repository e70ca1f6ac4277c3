"""Runs the backfill job (the job's SQL views in batch mode) and writes training rows to Parquet."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.json as pj

from intake.files.replay import check_sources, open_source
from intake.labels import RejectedLabel, estimate_rows, keep_valid, read_file_or_topic
from liveprofile.consent.changes import ConsentTable
from liveprofile.errors import InputError, ServiceError
from liveprofile.features.entity import parse_lists
from liveprofile.flink import jars, launcher, rest, submission
from liveprofile.resources import module_environment, product_path
from liveprofile.settings import Settings
from liveprofile.wire import training_rows
from liveprofile.wire.scored_events import read_rows

JOB = Path("jobs/backfill_job.py")
TOPIC = "--topic"  # the job reads the input topic
BLOCK_BYTES = 32 << 20
BATCH_ROWS = 10_000
JOB_TIMEOUT_S = 24 * 3_600
UNKNOWN_ANALYST = "unknown"  # for labels without an analyst: training does not use the name


class RowFormat(NamedTuple):
    """The rows that a pipeline's backfill job writes, and their conversion to Parquet."""

    job_schema: pa.Schema
    parquet_schema: pa.Schema
    convert: Callable[[pa.RecordBatch], pa.RecordBatch]
    time_column: str  # of the Parquet rows
    has_labels: bool = False  # the job reads labels, too


@dataclass
class BackfillResult:
    folder: str
    events: int | None = None  # events in the source files; None for the topic
    rows: int = 0  # rows written to Parquet
    labels: int | None = None  # labels read; None for the profile pipeline
    copies: int = 0  # duplicate events, left out of the rows
    no_consent: int = 0  # rows of users who do not allow training, left out
    erased: int = 0  # rows of users who were erased at any time, left out


def backfill_rows(
    settings: Settings,
    rows: RowFormat,
    out: Path,
    *,
    config: Path | None,
    source: Path | None,
    mapping: Path | None = None,
    labels: Path | None = None,
    cluster: bool = True,
    on_step: Callable[[str], None] = lambda step: None,
    on_rejected: Callable[[RejectedLabel], None] = lambda row: None,
    consents: ConsentTable | None = None,
    erased: Container[str] = frozenset(),
    variables: Mapping[str, str] = MappingProxyType({}),
) -> BackfillResult:
    """Writes a pipeline's rows to `out`, one folder per month of their time column.

    A row of the scoring pipeline holds a scored event and what the job knew at that time. Memory
    use does not grow with the number of rows.
    out: an empty or missing folder.
    source: CSV, Parquet or JSON lines, as `liveprofile events replay` reads them; None: the current
    content of the input topic.
    labels: of SCORING_ROWS: JSON lines or Parquet, as `liveprofile risk feedback` reads them;
    None: the current content of the topic risk-feedback.
    cluster: True runs on flink.rest_url, whose machines must see the folder `out`; False runs an
    embedded Flink.
    on_rejected: called for each invalid label.
    consents: only rows of users who allow training now and did at the time of the row; None: of
    all users. erased: users without rows.
    variables: settings for the job as variables of its environment, which win over the file.
    Raises InputError for invalid files and ServiceError if the job fails.
    """
    check_files(out, source, mapping, labels)
    arguments: list[str] = []
    result = BackfillResult(str(out))
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".backfill-", dir=out) as name:
        work = Path(name)
        if rows.has_labels:
            on_step("reading labels")
            found = keep_valid(read_file_or_topic(settings, labels, UNKNOWN_ANALYST), on_rejected)
            file = work / "labels.txt"
            result.labels = _write_lines(file, map(orjson.dumps, found))
            arguments = ["--labels", str(file.resolve())]
        if source is None:
            arguments.append(TOPIC)
        else:
            on_step("reading events")
            batches = open_source(source, mapping)
            values = (value for events in batches for value in events.values)
            file = work / "events.txt"
            result.events = _write_lines(file, values)
            arguments += ["--events", str(file.resolve())]
        run_job(settings, arguments, work, config, cluster, on_step, variables)
        on_step("writing Parquet")
        _to_parquet(work, out, rows, consents, erased, result)
    return result


def check_files(
    out: Path, source: Path | None, mapping: Path | None, labels: Path | None = None
) -> None:
    """Checks what can be checked before the backfill. Raises InputError."""
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty: choose another folder for the rows")
    check_sources([] if source is None else [source], mapping)
    if labels is not None:
        estimate_rows(labels)


def _write_lines(file: Path, values: Iterable[bytes]) -> int:
    """Writes a file for jobs.sql.tables.numbered_file."""
    count = 0
    with file.open("wb") as lines:
        for count, value in enumerate(values, 1):
            lines.write(b"%d\t%s\n" % (count, value))
    return count


def run_job(
    settings: Settings,
    arguments: list[str],
    work: Path,
    config: Path | None,
    cluster: bool,
    on_step: Callable[[str], None],
    variables: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Runs the backfill job, which writes the folder `rows` in `work`. Raises ServiceError.

    arguments: where its events are. For the others see `backfill_rows`.
    """
    arguments = [*arguments, "--rows", str((work / "rows").resolve())]
    if config is not None:
        arguments += ["--config", str(config.resolve())]
    on_step("running the SQL views in batch mode")
    if cluster:
        _run_on_cluster(settings, arguments, variables)
    else:
        _run_embedded(arguments, variables)


def _run_on_cluster(settings: Settings, arguments: list[str], variables: Mapping[str, str]) -> None:
    rest_url = settings.flink.rest_url
    job_id = submission.flink_run(
        rest_url, product_path(JOB), arguments, python=sys.executable, variables=variables
    )
    rest.wait_for_state(rest_url, job_id, {"FINISHED"}, JOB_TIMEOUT_S)


def _run_embedded(arguments: list[str], variables: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "jobs.backfill_job", *arguments]
    environment = module_environment() | variables
    with tempfile.TemporaryDirectory(prefix="liveprofile-jars-") as folder:
        if "FLINK_HOME" not in environment:  # else that one has all jars, as in the image
            if TOPIC in arguments:  # the package apache-flink has no Kafka connector
                jars.require()
            jars.build_functions()
            environment |= launcher.embedded_environment(Path(folder))
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        reason = rest.failure_reason(done.stderr) or "no error message"
        raise ServiceError(f"the backfill job failed: {reason}")


def _to_parquet(
    work: Path,
    out: Path,
    row_format: RowFormat,
    consents: ConsentTable | None,
    erased: Container[str],
    result: BackfillResult,
) -> None:
    """Converts the job's JSON rows to Parquet, and counts them in `result`."""
    now_ms = round(time.time() * 1_000)

    def converted_batches() -> Iterator[pa.RecordBatch]:
        parse_options = pj.ParseOptions(
            explicit_schema=row_format.job_schema, unexpected_field_behavior="error"
        )
        # A block holds at least one whole line; pyarrow must not split it.
        read_options = pj.ReadOptions(block_size=4 * BLOCK_BYTES)
        for block in _read_blocks(sorted((work / "rows").rglob("part-*"))):
            table = pj.read_json(pa.BufferReader(block), read_options, parse_options)
            for batch in table.to_batches(max_chunksize=BATCH_ROWS):
                converted = row_format.convert(batch)
                present = without_users(converted, erased)
                allowed = allowed_rows(present, row_format.time_column, consents, now_ms)
                result.copies += len(batch) - len(converted)
                result.erased += len(converted) - len(present)
                result.no_consent += len(present) - len(allowed)
                result.rows += len(allowed)
                yield allowed

    ds.write_dataset(
        converted_batches(),
        out,
        schema=row_format.parquet_schema,
        format="parquet",
        partitioning=ds.partitioning(pa.schema([MONTH_FIELD]), flavor="hive"),
        existing_data_behavior="overwrite_or_ignore",
    )


def without_users(batch: pa.RecordBatch, users: Container[str]) -> pa.RecordBatch:
    """The rows of all other users."""
    kept = [user_id not in users for user_id in batch["user_id"].to_pylist()]
    return batch if all(kept) else batch.filter(pa.array(kept, pa.bool_()))


def allowed_rows(
    batch: pa.RecordBatch, time_column: str, consents: ConsentTable | None, now_ms: int
) -> pa.RecordBatch:
    """The rows of users who allow training now and did at the time of the row."""
    if consents is None:
        return batch
    times = zip(batch["user_id"].to_pylist(), batch[time_column].to_pylist(), strict=True)
    return batch.filter(
        pa.array(
            [
                consents.allowed(user_id, "training", now_ms)
                and consents.allowed(user_id, "training", time_ms)
                for user_id, time_ms in times
            ],
            pa.bool_(),
        )
    )


def _read_blocks(files: list[Path]) -> Iterator[bytes]:
    """Yields whole lines in blocks of about BLOCK_BYTES: pyarrow loads a JSON file at once."""
    for path in files:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block + file.readline()


def _month(time_ms: pa.Array) -> pa.Array:
    return pc.strftime(pc.cast(time_ms, pa.timestamp("ms")), format="%Y-%m")


def _convert_profile_rows(batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = [*batch.columns, _month(batch.column("window_end_ms"))]
    return pa.RecordBatch.from_arrays(columns, schema=PROFILE_ROWS.parquet_schema)


def _convert_scoring_rows(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Drops duplicate events, as the streaming job does (udfs.scoring.batch)."""
    events = read_rows(batch["user_id"].to_pylist(), batch["parts"].to_pylist())
    columns = [
        batch["user_id"],
        pa.array(events.event_id),
        pa.array(events.event_type),
        pa.array(events.event_ms),
        pa.array(events.amount),
        batch["parts"],
        _month(pa.array(events.event_ms)),
    ]
    rows = pa.RecordBatch.from_arrays(columns, schema=SCORING_ROWS.parquet_schema)
    return rows.filter(pa.array(~parse_lists(events).duplicates()))


MONTH_FIELD = pa.field("month", pa.string())
PROFILE_ROWS = RowFormat(
    training_rows.PROFILE,
    training_rows.PROFILE.append(MONTH_FIELD),
    _convert_profile_rows,
    "window_end_ms",
)
SCORING_ROWS = RowFormat(
    training_rows.SCORING,
    training_rows.SCORING_STORED.append(MONTH_FIELD),
    _convert_scoring_rows,
    "event_ms",
    has_labels=True,
)
