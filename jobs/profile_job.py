"""The job: behaviour events in, profiles, deltas, scores, flags and alerts out.

    flink run -d -py jobs/profile_job.py -pyexec PYTHON -pyclientexec PYTHON -- --config FILE

`build` reads top to bottom as the event path; each step is a view. Two lanes share the job and
nothing else: windows become profiles (jobs/sql/profile_views.py), single events are scored as they come
(jobs/sql/scoring_views.py).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

from pyflink.table import EnvironmentSettings, StreamTableEnvironment, TableEnvironment

from jobs import savepoint_check
from jobs.compiled_plan import Override, Plan
from jobs.sql import profile_views, scoring_views, tables
from liveprofile.config import Settings, load
from liveprofile.errors import LiveprofileError
from liveprofile.wire.tokens import FIELD, WINDOW
from udfs.profile.udf import profile_operator
from udfs.scoring.udf import event_operator


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
        # A window and an event pass four exchanges each, and each may hold them this long.
        "execution.buffer-timeout.interval": f"{job.buffer_timeout_ms} ms",
        "execution.checkpointing.interval": f"{job.checkpoint_interval_ms} ms",
        # Of both lanes: a node of the plan has no Python configuration of its own.
        "python.fn-execution.bundle.size": job.bundle_rows,
        "python.fn-execution.arrow.batch.size": job.bundle_rows,
        "python.fn-execution.bundle.time": job.bundle_time_ms,
        "python.metric.enabled": "true",
    }
    if job.checkpoint_dir:
        config["execution.checkpointing.dir"] = job.checkpoint_dir
    if job.changelog:
        config["state.changelog.enabled"] = "true"
        # Flink refuses NO_CLAIM here, and CLAIM would delete the savepoint.
        config["execution.state-recovery.claim-mode"] = "LEGACY"
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


def rejected_records(settings: Settings, source: str) -> str:
    return f"""
        SELECT CAST(NULL AS STRING), payload, '{settings.topics.rejected}',
            {record_headers(reason="reason", detail="detail")}
        FROM {source}"""


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


def scores() -> str:
    """The event lane's model, store and rules: one vectorised call."""
    return "SELECT score_event(user_id, parts) AS messages FROM known"


def messages(source: str) -> str:
    """Alerts, and events that only the model's reader could see to be bad (liveprofile/wire/output_records.py)."""
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
        FROM (SELECT message FROM {source} CROSS JOIN UNNEST(messages) AS m(message))"""


class ScoringTables(NamedTuple):
    """DDL for tables named `event_source`, `feedback` and `event_sink`, and the function."""

    source: str
    feedback: str
    sink: str
    score_event: Any


def build(
    t_env: TableEnvironment,
    settings: Settings,
    *,
    source: str,
    sink: str,
    update_profile,
    scoring_tables: ScoringTables | None = None,
) -> Plan:
    """The whole path from source tables to sink tables, ready to execute.

    source, sink: DDL for tables named `source` and `sink` (jobs/sql/tables.py), handed in so that a
    test runs the same path on its own.
    """
    configure(t_env, settings)
    t_env.execute_sql(source)
    t_env.execute_sql(sink)
    profile_views.create(t_env, "source", settings, streaming=True)
    t_env.create_temporary_system_function("update_profile", update_profile)
    t_env.execute_sql(f"CREATE TEMPORARY VIEW profiles AS {profiles()}")
    inserts = [
        f"INSERT INTO sink {rejected_records(settings, 'rejected')}",
        f"INSERT INTO sink {late_records(settings)}",
        f"INSERT INTO sink {messages('profiles')}",
    ]
    overrides = [Override("stream-exec-deduplicate", ttl_ms=settings.state.dedup_ttl_ms)]
    if scoring_tables is not None:
        inserts += add_scoring_pipeline(t_env, settings, scoring_tables)
        overrides += scoring_overrides(settings)
    return Plan(t_env, inserts, overrides)


def add_scoring_pipeline(
    t_env: TableEnvironment, settings: Settings, lane: ScoringTables
) -> list[str]:
    """Its own source and sink: what the windows hold up does not hold up the events."""
    for table in (lane.source, lane.feedback, lane.sink):
        t_env.execute_sql(table)
    scoring_views.create(t_env, "event_source", "feedback", settings)
    t_env.create_temporary_system_function("score_event", lane.score_event)
    t_env.execute_sql(f"CREATE TEMPORARY VIEW scores AS {scores()}")
    return [
        f"INSERT INTO event_sink {rejected_records(settings, 'rejected_labels')}",
        f"INSERT INTO event_sink {messages('scores')}",
    ]


def scoring_overrides(settings: Settings) -> list[Override]:
    """The parts of an event are of no use once it is whole. And at parallelism 1 the last step, a
    count that only brings the events of a user to one place, has them there already."""
    ttl = {"table.exec.state.ttl": f"{settings.scoring.rejoin_ttl_ms} ms"}
    over = "stream-exec-over-aggregate"
    overrides = [Override(over, names="event_key]", configuration=ttl)]
    if settings.job.parallelism == 1:
        count = "partitionBy=[user_id], orderBy=[arrival ASC], window=[ ROWS BETWEEN UNBOUNDED"
        overrides.append(Override(over, names=count, chained=True))
    return overrides


def kafka_scoring_tables(settings: Settings) -> ScoringTables:
    return ScoringTables(
        tables.kafka_event_source("event_source", settings, settings.topics.events, 10),
        # A label is of no use to anyone within milliseconds.
        tables.kafka_event_source("feedback", settings, settings.topics.feedback, 500),
        tables.kafka_sink("event_sink", settings, linger_ms=0),
        event_operator(settings),
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
        savepoint_check.check(t_env, settings)
        plan = build(
            t_env,
            settings,
            source=tables.kafka_source("source", settings),
            sink=tables.kafka_sink("sink", settings),
            update_profile=profile_operator(settings),
            scoring_tables=kafka_scoring_tables(settings) if settings.scoring.enabled else None,
        )
        plan.execute()
    except LiveprofileError as error:
        print(f"profile_job: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
