"""The Flink job: behaviour events in, profiles, deltas, scores, flags and alerts out.

    flink run -d -py jobs/profile_job.py -pyexec PYTHON -pyclientexec PYTHON -- --config FILE

The code reads from top to bottom as the path of an event; each step is a view. Two pipelines share
nothing but the job, or each has a job (`--pipeline`): the profile pipeline turns windows into
profiles (jobs/sql/profile_views.py), the scoring pipeline scores single events as they arrive
(jobs/sql/scoring_views.py). Both validate records in the same way (jobs/sql/event_views.py).
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyflink.table import EnvironmentSettings, StreamTableEnvironment, TableEnvironment

from jobs import savepoint
from jobs.compiled_plan import CompiledPlan, NodeId, Override, Statements
from jobs.sql import event_views, profile_views, scoring_views, tables
from liveprofile.errors import ConfigError, LiveprofileError
from liveprofile.feeds.users import follow_merges
from liveprofile.flink.jobs import PIPELINES, Pipeline, only_job
from liveprofile.kafka.offsets import bootstrap_group, committed_offsets
from liveprofile.settings import Settings, load
from liveprofile.wire import output_records
from udfs.person_id import OpenMerges, register_person_id
from udfs.profile.udf import profile_udf
from udfs.scoring.udf import scoring_udf

MAX_FAILED_CHECKPOINTS = 60  # consecutive ones after which the job goes on, as on a full disk
# Between two checks whether a batch waits: it waits up to twice as long, and its alerts with it.
BUNDLE_TIME_MS = {None: 20, "profile": 200, "scoring": 10}  # by the pipeline that is alone
# Nobody waits for a profile within milliseconds: longer waits leave CPU for alerts.
PROFILE_BUFFER_TIMEOUT_MS = 100

# Stand for topics while the inserts are planned: jobs with other topics have the same plan.
REJECTED, LATE = "<rejected>", "<late>"

_OVER = "stream-exec-over-aggregate"


def configure(
    t_env: TableEnvironment, settings: Settings, pipeline: Pipeline | None = None
) -> None:
    """Sets the options that results depend on. pipeline: that the job has alone.

    Memory and restarts belong to the cluster (flink-conf/config.yaml).
    """
    job, buffer_timeout_ms = settings.job, settings.job.buffer_timeout_ms
    alone = pipeline if settings.scoring.enabled else "profile"
    if alone == "profile":
        buffer_timeout_ms = max(buffer_timeout_ms, PROFILE_BUFFER_TIMEOUT_MS)
    config = {
        "pipeline.name": job.name,
        "parallelism.default": job.parallelism,
        "table.local-time-zone": "UTC",
        "table.exec.state.ttl": f"{settings.state.user_ttl_ms} ms",
        # Several sinks share the views: each view is computed once, not once for each sink.
        "table.optimizer.reuse-optimize-block-with-digest-enabled": "true",
        # Safe for the planner's operators, which copy what they keep.
        "pipeline.object-reuse": "true",
        # An event may pass seven exchanges, and each may buffer it this long.
        "execution.buffer-timeout.interval": f"{buffer_timeout_ms} ms",
        "execution.checkpointing.interval": f"{job.checkpoint_interval_ms} ms",
        "execution.checkpointing.tolerable-failed-checkpoints": MAX_FAILED_CHECKPOINTS,
        # For both pipelines: a node of the plan has no Python configuration of its own.
        "python.fn-execution.bundle.size": job.max_bundle_rows,
        "python.fn-execution.arrow.batch.size": job.max_bundle_rows,
        "python.fn-execution.bundle.time": BUNDLE_TIME_MS[alone],
        "python.metric.enabled": "true",
    }
    if job.checkpoint_dir:
        config["execution.checkpointing.dir"] = job.checkpoint_dir
    if pipeline == "scoring":
        config["state.backend.type"] = settings.scoring.state_backend
    if job.changelog:
        config["state.changelog.enabled"] = "true"
        # Flink refuses NO_CLAIM here, and CLAIM would delete the savepoint.
        config["execution.state-recovery.claim-mode"] = "LEGACY"
    for key, value in config.items():
        t_env.get_config().set(key, str(value))
    event_views.register_functions(t_env)


def utf8(expression: str) -> str:
    return f"ENCODE({expression}, 'UTF-8')"


def record_headers(**more: str) -> str:
    """SQL: headers with the position of the input record, and `more`."""
    fields = more | {
        "topic": "record_topic",
        "partition": "CAST(record_partition AS STRING)",
        "offset": "CAST(record_offset AS STRING)",
    }
    return "MAP[" + ", ".join(f"'{name}', {utf8(value)}" for name, value in fields.items()) + "]"


def rejected_records(settings: Settings, source: str, original: str | None = None) -> str:
    """Rejected records. A payload that Kafka might refuse is truncated; headers tell what it was.

    A compressed batch may hold a record that is larger than the broker's limit of a request.

    `original`: the column with what the payload was, if `source` has truncated it.
    """
    chars = settings.limits.max_payload_chars
    is_long = f"CHAR_LENGTH(payload) > {chars}"
    headers = {"reason": "reason", "detail": "detail"}
    original = original or event_views.original_sql()
    truncated = {
        "truncated": "'true'",
        "payload_bytes": f"SPLIT_INDEX({original}, ' ', 0)",
        "payload_sha256": f"SPLIT_INDEX({original}, ' ', 1)",
    }
    return f"""
        SELECT CAST(NULL AS STRING),
            CASE WHEN {is_long} THEN LEFT(payload, {chars}) ELSE payload END,
            '{REJECTED}',
            CASE WHEN {is_long} THEN {record_headers(**headers, **truncated)}
                ELSE {record_headers(**headers)} END
        FROM {source}"""


def late_records() -> str:
    return f"""
        SELECT user_id, payload, '{LATE}',
            {record_headers(lateness_ms="CAST(lateness_ms AS STRING)")}
        FROM late"""


def profiles() -> str:
    """Runs model, rules and sink in one vectorised call.

    `messages` are the output records of the row. They leave the operator after the row is stored.
    """
    return """
        SELECT update_profile(
                user_id, window_start, window_end, events, history, purchases, added, sums,
                attribute_tiles)
            AS messages
        FROM profile_input"""


def scores() -> str:
    """Runs the scoring pipeline's model, rules and sink in one vectorised call."""
    return "SELECT score_event(user_id, parts) AS messages FROM scoring_input"


def output_messages(source: str) -> str:
    """Alerts, and events that only Python could reject (liveprofile/wire/output_records.py)."""
    column = output_records.columns_sql()
    headers = ", ".join(
        f"'{name}', {utf8(column[of])}"
        for name, of in (
            ("reason", "reason"),
            ("detail", "detail"),
            ("topic", "record_topic"),
            ("partition", "partition"),
            ("offset", "offset"),
        )
    )
    content_type = utf8("'application/cloudevents+json'")
    return f"""
        SELECT {column["key"]}, {column["value"]}, {column["topic"]},
            CASE WHEN {column["reason"]} = '' THEN MAP['content-type', {content_type}]
                ELSE MAP[{headers}] END
        FROM (SELECT message FROM {source} CROSS JOIN UNNEST(messages) AS m(message))"""


class ProfileTables(NamedTuple):
    """DDL of the tables `source` and `sink` (jobs/sql/tables.py), and the function."""

    source: str
    sink: str
    update_profile: Any


class ScoringTables(NamedTuple):
    """DDL of the tables `scoring_source`, `label_source` and `scoring_sink`, and the function."""

    source: str
    labels: str
    sink: str
    score_event: Any


def build(
    t_env: TableEnvironment,
    settings: Settings,
    profile_tables: ProfileTables | None = None,
    scoring_tables: ScoringTables | None = None,
    *,
    node_ids: Sequence[NodeId] = (),
    open_merges: OpenMerges = follow_merges,
) -> CompiledPlan:
    """Builds the paths from source tables to sink tables, ready to execute.

    A pipeline without tables is left out. A test passes its own tables and so runs the same path.
    `node_ids`: see CompiledPlan. `open_merges`: see `register_person_id`.
    """
    alone: Pipeline | None = None
    if settings.job.pipelines == "apart":
        alone = "scoring" if profile_tables is None else "profile"
    configure(t_env, settings, alone)
    register_person_id(t_env, settings, open_merges)
    statements, overrides = [], []
    if profile_tables is not None:
        statements.append(profile_pipeline(t_env, settings, profile_tables))
        overrides += profile_overrides(settings)
    if scoring_tables is not None:
        statements.append(scoring_pipeline(t_env, settings, scoring_tables))
        overrides += scoring_overrides(settings)
    return CompiledPlan(t_env, statements, overrides, node_ids)


def profile_pipeline(
    t_env: TableEnvironment, settings: Settings, profile_tables: ProfileTables
) -> Statements:
    t_env.create_temporary_system_function("update_profile", profile_tables.update_profile)
    views = profile_views.queries("source", settings, streaming=True)
    return Statements(
        [profile_tables.source, profile_tables.sink],
        views | {"profiles": profiles()},
        [
            f"INSERT INTO sink {rejected_records(settings, 'rejected', 'original')}",
            f"INSERT INTO sink {rejected_records(settings, 'too_many')}",
            f"INSERT INTO sink {late_records()}",
            f"INSERT INTO sink {output_messages('profiles')}",
        ],
        {REJECTED: settings.topics.rejected, LATE: settings.topics.late},
    )


def profile_overrides(settings: Settings) -> list[Override]:
    return [
        Override(
            "stream-exec-deduplicate",
            ttl_ms=settings.state.dedup_ttl_ms,
            name=savepoint.operator_name("profile", settings),
        ),
        Override(
            _OVER,
            savepoint.WINDOW_COUNT,
            configuration={"table.exec.state.ttl": f"{settings.window.count_ttl_ms} ms"},
        ),
        # All windows of a user close in one task.
        Override(_OVER, savepoint.HISTORY, chained=True),
    ]


def scoring_pipeline(
    t_env: TableEnvironment, settings: Settings, scoring_tables: ScoringTables
) -> Statements:
    """The scoring pipeline has its own source and sink, so windows never delay it."""
    t_env.create_temporary_system_function("score_event", scoring_tables.score_event)
    views = scoring_views.queries("scoring_source", "label_source", settings)
    return Statements(
        [scoring_tables.source, scoring_tables.labels, scoring_tables.sink],
        views | {"scores": scores()},
        [
            f"INSERT INTO scoring_sink {rejected_records(settings, 'rejected_labels')}",
            f"INSERT INTO scoring_sink {output_messages('scores')}",
        ],
        {REJECTED: settings.topics.rejected},
    )


def scoring_overrides(settings: Settings) -> list[Override]:
    """At parallelism 1, all steps of an event run in one task, which needs no exchanges."""
    at_1 = settings.job.parallelism == 1
    chained = [Override(_OVER, of_list, chained=True) for of_list in savepoint.LISTS if at_1]
    # Last: the name replaces the description.
    named = Override(_OVER, savepoint.LISTS[0], name=savepoint.operator_name("scoring", settings))
    return [*chained, named]


def kafka_profile_tables(
    settings: Settings, start_offsets: Mapping[int, int] = tables.NO_OFFSETS
) -> ProfileTables:
    return ProfileTables(
        tables.kafka_source("source", settings, start_offsets=start_offsets),
        tables.kafka_sink("sink", settings),
        profile_udf(settings),
    )


def kafka_scoring_tables(
    settings: Settings, start_offsets: Mapping[int, int] = tables.NO_OFFSETS
) -> ScoringTables:
    topics = settings.topics
    return ScoringTables(
        tables.kafka_scoring_source(
            "scoring_source",
            settings,
            topics.events,
            max_wait_ms=settings.scoring.fetch_wait_ms,
            start_offsets=start_offsets,
        ),
        # Nobody needs a label within milliseconds.
        tables.kafka_scoring_source("label_source", settings, topics.feedback, max_wait_ms=500),
        tables.kafka_sink("scoring_sink", settings, linger_ms=0),
        scoring_udf(settings),
    )


def committed_start_offsets(settings: Settings) -> dict[int, int]:
    """Where the input topic goes on from the archive, by partition, as `bootstrap` has committed.

    Raises ConfigError if Kafka no longer has these offsets, ServiceError if it does not answer.
    """
    group = bootstrap_group(settings.kafka)
    offsets = committed_offsets(settings, settings.topics.events, group)
    if not offsets:
        raise ConfigError(
            f"Kafka has no offsets of group {group} in {settings.topics.events}, at which the topic"
            " goes on from the archive of the savepoint: repeat `liveprofile events bootstrap`"
        )
    return offsets


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", type=Path, help="TOML file; default: LIVEPROFILE_CONFIG")
    parser.add_argument(
        "--pipeline", choices=PIPELINES, help="only it; needs job.pipelines = apart"
    )
    parser.add_argument(
        "--bootstrap",
        action="store_true",
        help="topics.events holds an archive, and another job goes on from a savepoint of this job",
    )
    options = parser.parse_args(arguments)
    try:
        job = only_job(load(options.config), options.pipeline)
        settings = job.settings
        t_env = StreamTableEnvironment.create(
            environment_settings=EnvironmentSettings.in_streaming_mode()
        )
        start_offsets = tables.NO_OFFSETS
        if savepoint.check(t_env, job):
            start_offsets = committed_start_offsets(settings)
        plan = build(
            t_env,
            settings,
            kafka_profile_tables(settings, start_offsets) if job.has("profile") else None,
            kafka_scoring_tables(settings, start_offsets) if job.has("scoring") else None,
            node_ids=savepoint.ARCHIVE_NODE_IDS if options.bootstrap else savepoint.NODE_IDS,
        )
        plan.execute()
    except LiveprofileError as error:
        print(f"profile_job: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
