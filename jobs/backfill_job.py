"""The backfill: the views of the job over an archive or a bounded topic, in batch mode.

    flink run -py jobs/backfill_job.py ... -- --config FILE --events ARCHIVE --rows FOLDER

Each row is the input that a pipeline's model would have received in the stream. Trainings read
these rows (liveprofile/wire/training_rows.py), and `liveprofile events recompute-late` recomputes
profiles from them. A batch has no watermark, so no event is late.
"""

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


def query(schema: pa.Schema) -> str:
    """Selects the rows. Those of PROFILE_INPUT are the windows of a user one after the other."""
    columns = {
        "window_start_ms": f"{sql.epoch_ms('window_start')} AS window_start_ms",
        "window_end_ms": f"{sql.epoch_ms('window_end')} AS window_end_ms",
    }
    selected = ", ".join(columns.get(name, name) for name in schema.names)
    view = "scoring_input" if schema == training_rows.SCORING else "profile_input"
    order = " ORDER BY user_id, window_end" if schema == training_rows.PROFILE_INPUT else ""
    return f"SELECT {selected} FROM {view}{order}"


def run(
    t_env: TableEnvironment, settings: Settings, inputs: list[str], schema: pa.Schema, rows: Path
) -> None:
    """Writes the rows of a pipeline and waits until all are written.

    `inputs`: DDL of bounded tables named `source` and, for SCORING, `label_source`, whose `arrival`
    is then in the order of time (jobs.sql.expressions.arrival_order).
    """
    config = t_env.get_config()
    config.set("pipeline.name", f"{settings.job.name}-backfill")
    config.set("parallelism.default", str(settings.job.parallelism))
    config.set("table.local-time-zone", "UTC")
    event_views.register_functions(t_env)
    register_person_id(t_env, settings)
    for table in (*inputs, tables.file_sink("sink", rows, training_rows.columns_sql(schema))):
        t_env.execute_sql(table)
    views = (
        scoring_views.queries("source", "label_source", settings)
        if schema == training_rows.SCORING
        else profile_views.queries("source", settings, streaming=False)
    )
    event_views.create_views(t_env, views)
    t_env.execute_sql(f"INSERT INTO sink {query(schema)}").wait()


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
        schema = training_rows.PROFILE
        if options.records is not None:
            schema = training_rows.PROFILE_INPUT
            # A correction names the person in each record.
            no_merges = settings.merges.model_copy(update={"enabled": False})
            settings = settings.model_copy(update={"merges": no_merges})
            inputs = [tables.record_file("source", options.records, settings)]
        elif options.labels is None:
            inputs = [
                tables.kafka_source("source", settings, bounded=True)
                if options.topic
                else tables.numbered_file("source", options.events, settings)
            ]
        else:
            schema = training_rows.SCORING
            if options.topic:
                source = tables.bounded_scoring_source("source", settings)
            else:  # an archive is history
                scoring = settings.scoring.model_copy(update={"replay": True})
                settings = settings.model_copy(update={"scoring": scoring})
                source = tables.numbered_file("source", options.events, settings)
            labels = tables.numbered_file("label_source", options.labels, settings, labels=True)
            inputs = [source, labels]
        run(t_env, settings, inputs, schema, options.rows)
    except LiveprofileError as error:
        print(f"backfill_job: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
