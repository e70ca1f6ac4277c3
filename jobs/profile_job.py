"""The job: behaviour events in, profiles, deltas, flags and alerts out.

    flink run -d -py jobs/profile_job.py -pyexec PYTHON -pyclientexec PYTHON -- --config FILE

`main` reads top to bottom as the event path; each step is a view in jobs/views.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pyflink.table import EnvironmentSettings, StreamTableEnvironment, TableEnvironment

from jobs import tables, views
from jobs.plan import Plan
from liveprofile.config import Settings, load
from liveprofile.errors import LiveprofileError
from udfs.events import FIELD, WINDOW
from udfs.operator import profile_operator


def configure(t_env: TableEnvironment, settings: Settings) -> None:
    """What the results depend on is set here; memory, state backend and restarts are the
    cluster's (flink-conf/config.yaml)."""
    job = settings.job
    config = {
        "pipeline.name": job.name,
        "parallelism.default": job.parallelism,
        "table.local-time-zone": "UTC",
        "table.exec.state.ttl": f"{settings.state.user_ttl_ms} ms",
        "table.exec.source.idle-timeout": f"{settings.window.idle_timeout_ms} ms",
        # The steps are shared by several sinks: parsed once, not once a sink.
        "table.optimizer.reuse-optimize-block-with-digest-enabled": "true",
        # Safe for what the planner makes: its operators copy what they keep.
        "pipeline.object-reuse": "true",
        # A window passes four exchanges, and each may hold it this long.
        "execution.buffer-timeout.interval": "20 ms",
        "execution.checkpointing.interval": f"{job.checkpoint_interval_ms} ms",
        "python.fn-execution.bundle.size": job.bundle_rows,
        "python.fn-execution.arrow.batch.size": job.bundle_rows,
        "python.fn-execution.bundle.time": job.bundle_time_ms,
        "python.metric.enabled": "true",
    }
    if job.checkpoint_dir:
        config["execution.checkpointing.dir"] = job.checkpoint_dir
    for key, value in config.items():
        t_env.get_config().set(key, str(value))


def utf8(expression: str) -> str:
    return f"ENCODE({expression}, 'UTF-8')"


def record_headers(**more: str) -> str:
    """SQL: the headers that say where a record came from, and why it is here."""
    fields = more | {
        "topic": "record_topic",
        "partition": "CAST(record_partition AS STRING)",
        "offset": "CAST(record_offset AS STRING)",
    }
    return "MAP[" + ", ".join(f"'{name}', {utf8(value)}" for name, value in fields.items()) + "]"


def rejected_records(settings: Settings) -> str:
    return f"""
        SELECT CAST(NULL AS STRING), payload, '{settings.topics.rejected}',
            {record_headers(reason="reason", detail="detail")}
        FROM rejected"""


def late_records(settings: Settings) -> str:
    return f"""
        SELECT user_id, payload, '{settings.topics.late}',
            {record_headers(lateness_ms="CAST(lateness_ms AS STRING)")}
        FROM late"""


def profiles() -> str:
    """The model, the store and the rules: one vectorised call. `messages` are what it has to tell
    other systems, after everything of the row is stored."""
    return """
        SELECT update_profile(user_id, window_start, window_end, events, history, added, sums)
            AS messages
        FROM remembered"""


def messages() -> str:
    """Alerts, and events that only the model's reader could see to be bad (udfs/messages.py)."""
    head = f"SPLIT_INDEX(message, '{WINDOW}', 0)"
    field = [f"SPLIT_INDEX({head}, '{FIELD}', {i})" for i in range(7)]
    names = ("reason", "detail", "topic", "partition", "offset")
    headers = ", ".join(
        f"'{name}', {utf8(value)}" for name, value in zip(names, field[2:], strict=True)
    )
    content_type = utf8("'application/cloudevents+json'")
    return f"""
        SELECT {field[1]}, SUBSTRING(message, LOCATE('{WINDOW}', message) + 1), {field[0]},
            CASE WHEN {field[2]} = '' THEN MAP['content-type', {content_type}]
                ELSE MAP[{headers}] END
        FROM (SELECT message FROM profiles CROSS JOIN UNNEST(messages) AS m(message))"""


def build(
    t_env: TableEnvironment, settings: Settings, *, source: str, sink: str, update_profile
) -> Plan:
    """The whole path from a source table to a sink table, ready to execute.

    source, sink: DDL for tables named `source` and `sink` (jobs/tables.py), handed in so that a
    test runs the same path on its own.
    """
    configure(t_env, settings)
    t_env.execute_sql(source)
    t_env.execute_sql(sink)
    views.create(t_env, "source", settings, streaming=True)
    t_env.create_temporary_system_function("update_profile", update_profile)
    t_env.execute_sql(f"CREATE TEMPORARY VIEW profiles AS {profiles()}")

    records = (rejected_records(settings), late_records(settings), messages())
    return Plan(
        t_env,
        [f"INSERT INTO sink {query}" for query in records],
        {"stream-exec-deduplicate": settings.state.dedup_ttl_ms},
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", type=Path, help="TOML file; else LIVEPROFILE_CONFIG")
    options = parser.parse_args(arguments)
    try:
        settings = load(options.config)
        t_env = StreamTableEnvironment.create(
            environment_settings=EnvironmentSettings.in_streaming_mode()
        )
        plan = build(
            t_env,
            settings,
            source=tables.kafka_source("source", settings),
            sink=tables.kafka_sink("sink", settings),
            update_profile=profile_operator(settings),
        )
        plan.execute()
    except LiveprofileError as error:
        print(f"profile_job: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
