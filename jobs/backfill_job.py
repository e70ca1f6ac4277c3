"""The backfill: the views of the job over an archive or a bounded topic, in batch mode.

    flink run -py jobs/backfill_job.py ... -- --config FILE --events ARCHIVE --rows FOLDER

Each row is the input that a pipeline's model would have received in the stream. Trainings read
these rows (liveprofile/wire/training_rows.py), and `liveprofile events recompute-late` recomputes
profiles from them. A batch has no watermark, so no event is late.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pyarrow as pa
from pyflink.table import EnvironmentSettings, TableEnvironment

from jobs.sql import event_views, profile_views, scoring_views, tables
from jobs.sql import expressions as sql
from liveprofile.errors import LiveprofileError
from liveprofile.settings import Settings, load
from liveprofile.wire import training_rows
from udfs.person_id import register_person_id


def profile_rows(schema: pa.Schema) -> str:
    columns = {
        "window_start_ms": f"{sql.epoch_ms('window_start')} AS window_start_ms",
        "window_end_ms": f"{sql.epoch_ms('window_end')} AS window_end_ms",
    }
    selected = ", ".join(columns.get(name, name) for name in schema.names)
    order = " ORDER BY user_id, window_end" if schema == training_rows.PROFILE_INPUT else ""
    return f"SELECT {selected} FROM profile_input{order}"


def scoring_rows() -> str:
    return f"SELECT {', '.join(training_rows.SCORING.names)} FROM scoring_input"


def run_profile_pipeline(
    t_env: TableEnvironment,
    settings: Settings,
    *,
    source: str,
    rows: Path,
    schema: pa.Schema = training_rows.PROFILE,
) -> None:
    """Writes the rows of the profile pipeline and waits until all are written.

    `source`: DDL of a bounded table named `source`. `schema`: of PROFILE_INPUT the windows of a
    user are written one after the other.
    """
    _configure(t_env, settings)
    register_person_id(t_env, settings)
    t_env.execute_sql(source)
    event_views.create_views(t_env, profile_views.queries("source", settings, streaming=False))
    t_env.execute_sql(tables.file_sink("sink", rows, training_rows.columns_sql(schema)))
    t_env.execute_sql(f"INSERT INTO sink {profile_rows(schema)}").wait()


def run_scoring_pipeline(
    t_env: TableEnvironment, settings: Settings, *, source: str, labels: str, rows: Path
) -> None:
    """Writes the rows of the scoring pipeline and waits until all are written.

    `source`, `labels`: DDL of bounded tables named `source` and `label_source`, whose `arrival` is
    in the order of time (jobs.sql.expressions.arrival_order).
    """
    _configure(t_env, settings)
    register_person_id(t_env, settings)
    t_env.execute_sql(source)
    t_env.execute_sql(labels)
    event_views.create_views(t_env, scoring_views.queries("source", "label_source", settings))
    t_env.execute_sql(
        tables.file_sink("sink", rows, training_rows.columns_sql(training_rows.SCORING))
    )
    t_env.execute_sql(f"INSERT INTO sink {scoring_rows()}").wait()


def _configure(t_env: TableEnvironment, settings: Settings) -> None:
    config = t_env.get_config()
    config.set("pipeline.name", f"{settings.job.name}-backfill")
    config.set("parallelism.default", str(settings.job.parallelism))
    config.set("table.local-time-zone", "UTC")
    event_views.register_functions(t_env)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", type=Path, help="TOML file; default: LIVEPROFILE_CONFIG")
    parser.add_argument("--rows", type=Path, required=True, help="folder for the rows (JSON lines)")
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument("--events", help="file of events, each line a number, a tab and a payload")
    origin.add_argument(
        "--records", help="file of records: write what the profile pipeline's model receives"
    )
    origin.add_argument("--topic", action="store_true", help="the present content of the topic")
    parser.add_argument(
        "--labels", help="file of labels, as of events: write rows of the scoring pipeline"
    )
    options = parser.parse_args(arguments)
    try:
        settings = load(options.config)
        t_env = TableEnvironment.create(EnvironmentSettings.in_batch_mode())
        if options.records is not None:
            # A correction names the person in each record.
            no_merges = settings.merges.model_copy(update={"enabled": False})
            settings = settings.model_copy(update={"merges": no_merges})
            source = tables.record_file("source", options.records, settings)
            run_profile_pipeline(
                t_env,
                settings,
                source=source,
                rows=options.rows,
                schema=training_rows.PROFILE_INPUT,
            )
        elif options.labels is None:
            source = (
                tables.kafka_source("source", settings, bounded=True)
                if options.topic
                else tables.numbered_file("source", options.events, settings)
            )
            run_profile_pipeline(t_env, settings, source=source, rows=options.rows)
        else:
            if options.topic:
                source = tables.bounded_scoring_source("source", settings)
            else:  # an archive is history
                scoring = settings.scoring.model_copy(update={"replay": True})
                settings = settings.model_copy(update={"scoring": scoring})
                source = tables.numbered_file("source", options.events, settings)
            labels = tables.numbered_file("label_source", options.labels, settings, labels=True)
            run_scoring_pipeline(t_env, settings, source=source, labels=labels, rows=options.rows)
    except LiveprofileError as error:
        print(f"backfill_job: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
