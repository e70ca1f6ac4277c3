"""The backfill: the same views over an archive or a bounded topic, in batch mode.

    flink run -py jobs/backfill_job.py ... -- --config FILE --events ARCHIVE --rows FOLDER

Each row it writes is what the model would have been called with in the stream; they are the
training rows (models/rows.py). A batch has no watermark, so nothing is late.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pyflink.table import EnvironmentSettings, TableEnvironment

from jobs import tables, views
from liveprofile.config import Settings, load
from liveprofile.errors import LiveprofileError

ROW = (
    "user_id STRING, window_start_ms BIGINT, window_end_ms BIGINT, events STRING, history STRING,"
    " added ARRAY<DOUBLE>, sums ARRAY<DOUBLE>"
)


def training_rows() -> str:
    start, end = (
        f"EXTRACT(EPOCH FROM {time}) * 1000 + EXTRACT(MILLISECOND FROM {time})"
        for time in ("window_start", "window_end")
    )
    return f"SELECT user_id, {start}, {end}, events, history, added, sums FROM remembered"


def run(t_env: TableEnvironment, settings: Settings, *, source: str, rows: Path) -> None:
    """Blocks until all rows are written. source: DDL of a bounded table named `source`."""
    config = t_env.get_config()
    config.set("pipeline.name", f"{settings.job.name}-backfill")
    config.set("parallelism.default", str(settings.job.parallelism))
    config.set("table.local-time-zone", "UTC")
    t_env.execute_sql(source)
    t_env.execute_sql(tables.file_sink("sink", rows, ROW))
    views.create(t_env, "source", settings, streaming=False)
    t_env.execute_sql(f"INSERT INTO sink {training_rows()}").wait()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", type=Path, help="TOML file; else LIVEPROFILE_CONFIG")
    parser.add_argument("--rows", type=Path, required=True, help="folder for the rows (JSON lines)")
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument("--events", help="file or folder of JSON lines, one event a line")
    origin.add_argument("--topic", action="store_true", help="the input topic as it is now")
    options = parser.parse_args(arguments)
    try:
        settings = load(options.config)
        source = (
            tables.kafka_source("source", settings, bounded=True)
            if options.topic
            else tables.file_source("source", options.events, settings)
        )
        t_env = TableEnvironment.create(EnvironmentSettings.in_batch_mode())
        run(t_env, settings, source=source, rows=options.rows)
    except LiveprofileError as error:
        print(f"backfill_job: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
