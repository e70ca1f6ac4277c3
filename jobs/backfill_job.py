"""The backfill: the same views over an archive or a bounded topic, in batch mode.

    flink run -py jobs/backfill_job.py ... -- --config FILE --events ARCHIVE --rows FOLDER

Each row it writes is what a lane's model would have been called with in the stream; they are the
training rows (models/profile/data/training_rows.py; of the event lane models/fraud/datasets/labelled_rows.py). A batch has no
watermark, so nothing is late.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pyflink.table import EnvironmentSettings, TableEnvironment

from jobs.sql import expressions as sql
from jobs.sql import profile_views, scoring_views, tables
from liveprofile.config import Settings, load
from liveprofile.errors import LiveprofileError

ROW = (
    "user_id STRING, window_start_ms BIGINT, window_end_ms BIGINT, events STRING, history STRING,"
    " added ARRAY<DOUBLE>, sums ARRAY<DOUBLE>"
)

EVENT_ROW = "user_id STRING, parts STRING"


def training_rows() -> str:
    start, end = sql.epoch_ms("window_start"), sql.epoch_ms("window_end")
    return f"SELECT user_id, {start}, {end}, events, history, added, sums FROM remembered"


def run(t_env: TableEnvironment, settings: Settings, *, source: str, rows: Path) -> None:
    """Blocks until all rows are written. source: DDL of a bounded table named `source`."""
    _configure(t_env, settings)
    t_env.execute_sql(source)
    t_env.execute_sql(tables.file_sink("sink", rows, ROW))
    profile_views.create(t_env, "source", settings, streaming=False)
    t_env.execute_sql(f"INSERT INTO sink {training_rows()}").wait()


def run_events(
    t_env: TableEnvironment, settings: Settings, *, source: str, labels: str, rows: Path
) -> None:
    """The same of the event lane. source, labels: DDL of bounded tables named `source` and
    `labels_given`, whose `arrival` is in the order of time (jobs.sql.expressions.turn)."""
    _configure(t_env, settings)
    t_env.execute_sql(source)
    t_env.execute_sql(labels)
    t_env.execute_sql(tables.file_sink("sink", rows, EVENT_ROW))
    scoring_views.create(t_env, "source", "labels_given", settings)
    t_env.execute_sql("INSERT INTO sink SELECT user_id, parts FROM known").wait()


def _configure(t_env: TableEnvironment, settings: Settings) -> None:
    config = t_env.get_config()
    config.set("pipeline.name", f"{settings.job.name}-backfill")
    config.set("parallelism.default", str(settings.job.parallelism))
    config.set("table.local-time-zone", "UTC")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", type=Path, help="TOML file; else LIVEPROFILE_CONFIG")
    parser.add_argument("--rows", type=Path, required=True, help="folder for the rows (JSON lines)")
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument("--events", help="file or folder of JSON lines, one event a line")
    origin.add_argument("--topic", action="store_true", help="the input topic as it is now")
    parser.add_argument(
        "--labels",
        help="file of labels: rows of single events, not of windows. It and --events have lines of"
        " a number, a tab and a payload",
    )
    options = parser.parse_args(arguments)
    try:
        settings = load(options.config)
        t_env = TableEnvironment.create(EnvironmentSettings.in_batch_mode())
        if options.labels is None:
            source = (
                tables.kafka_source("source", settings, bounded=True)
                if options.topic
                else tables.file_source("source", options.events, settings)
            )
            run(t_env, settings, source=source, rows=options.rows)
        else:
            source = (
                tables.bounded_event_source("source", settings)
                if options.topic
                else tables.numbered_file("source", options.events, settings)
            )
            labels = tables.numbered_file("labels_given", options.labels, settings, labels=True)
            run_events(t_env, settings, source=source, labels=labels, rows=options.rows)
    except LiveprofileError as error:
        print(f"backfill_job: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
