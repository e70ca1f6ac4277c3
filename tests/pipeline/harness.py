"""Runs the job's pipelines on files in an embedded Flink and returns what they store and send."""

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pyflink.table import EnvironmentSettings, TableEnvironment

from jobs import backfill_job, profile_job
from jobs.sql import expressions as sql
from jobs.sql import scoring_views, tables
from jobs.sql.event_views import create_views
from liveprofile.feeds.feed import Fixed
from liveprofile.feeds.users import follow_merges
from liveprofile.settings import Settings
from models.profile.inference import ProfileModel
from tests.reference.windows import Record
from tests.support.memory.feeds import fixed_feeds
from tests.support.memory.sinks import MemoryProfileSink, MemoryScoringSink
from udfs.person_id import OpenMerges
from udfs.profile.model_feed import ActiveModels
from udfs.profile.udf import PARTS, profile_udf
from udfs.scoring.udf import PARTS as SCORING_PARTS
from udfs.scoring.udf import scoring_udf
from udfs.worker import Feeds

OpenFeeds = Callable[..., Feeds]
SINK_COLUMNS = "record_key STRING, payload STRING, topic STRING, headers MAP<STRING, BYTES>"


# Of the pipeline that runs, in this process. The UDFs are pickled with the names of the functions
# that open them, not with the sinks.
_sinks: dict[str, Any] = {}


def open_profile_sink(settings: Settings, embedding_dim: int) -> MemoryProfileSink:
    return _sinks["profile"]


def open_scoring_sink(settings: Settings) -> MemoryScoringSink:
    return _sinks["scoring"]


def fixed_models(settings: Settings, configured: ProfileModel) -> Fixed[ActiveModels]:
    """The model of the settings only: no deployments."""
    return Fixed(ActiveModels(configured))


class SentRecord(NamedTuple):
    topic: str
    key: str | None
    value: str | None
    headers: dict[str, str]

    @property
    def position(self) -> tuple[int, int]:
        return int(self.headers["partition"]), int(self.headers["offset"])


class ProfileOutput(NamedTuple):
    sink: MemoryProfileSink
    sent: list[SentRecord]

    def sent_to(self, topic: str) -> list[SentRecord]:
        return [sent for sent in self.sent if sent.topic == topic]


def is_utf8(record: Record) -> bool:
    """JSON files cannot hold other payloads. The services tests send those."""
    try:
        return record.value is None or record.value.decode("utf-8") is not None
    except UnicodeDecodeError:
        return False


def event_clock(settings: Settings) -> str:
    """Returns the expression inline: a computed column cannot refer to another one."""
    record_time = "TO_TIMESTAMP_LTZ(record_ms, 3)"
    return sql.event_clock("payload", record_time, settings.limits.max_clock_skew_ms)


def source_table(
    path: Path,
    settings: Settings,
    *,
    name: str = "source",
    watermark: bool = True,
    arrival: str = "PROCTIME()",
) -> str:
    watermark_clause = (
        f", WATERMARK FOR event_clock AS {sql.watermark(settings.window)}" if watermark else ""
    )
    return f"""
        CREATE TEMPORARY TABLE {name} (
            payload STRING, record_topic STRING, record_partition INT, record_offset BIGINT,
            record_ms BIGINT, record_time AS TO_TIMESTAMP_LTZ(record_ms, 3),
            event_clock AS {event_clock(settings)},
            arrival AS {arrival}
            {watermark_clause}
        ) WITH ('connector' = 'filesystem', 'path' = '{path.as_uri()}', 'format' = 'json')"""


def write_records(path: Path, records: Iterable[Record], topic: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            row = {
                "payload": None if record.value is None else record.value.decode(),
                "record_topic": topic,
                "record_partition": record.partition,
                "record_offset": record.offset,
                "record_ms": record.timestamp_ms,
            }
            file.write(json.dumps(row) + "\n")


def read_rows(folder: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.rglob("part-*")):
        with file.open(encoding="utf-8", newline="\n") as lines:
            yield from map(json.loads, lines)


def read_sent(folder: Path) -> Iterator[SentRecord]:
    for row in read_rows(folder):
        headers = {name: base64.b64decode(value).decode() for name, value in row["headers"].items()}
        yield SentRecord(row["topic"], row.get("record_key"), row.get("payload"), headers)


def run_profile_pipeline(
    records: list[Record],
    settings: Settings,
    folder: Path,
    open_feeds: OpenFeeds = fixed_feeds,
    open_merges: OpenMerges = follow_merges,
) -> ProfileOutput:
    """Runs the profile pipeline of jobs.profile_job. The end of the input closes every window."""
    sink = _sinks["profile"] = MemoryProfileSink()
    events, sent = folder / "events.json", folder / "sent"
    write_records(events, records, settings.topics.events)
    t_env = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    plan = profile_job.build(
        t_env,
        settings,
        profile_tables(settings, events, sent, open_feeds),
        open_merges=open_merges,
    )
    plan.execute().wait()
    return ProfileOutput(sink, list(read_sent(sent)))


def profile_tables(
    settings: Settings, events: Path, sent: Path, open_feeds: OpenFeeds = fixed_feeds
) -> profile_job.ProfileTables:
    parts = PARTS._replace(
        open_store=open_profile_sink, open_feeds=open_feeds, open_models=fixed_models
    )
    return profile_job.ProfileTables(
        source_table(events, settings),
        tables.file_sink("sink", sent, SINK_COLUMNS),
        profile_udf(settings, parts),
    )


class ScoringOutput(NamedTuple):
    sink: MemoryScoringSink
    sent: list[SentRecord]


def scoring_tables(
    settings: Settings,
    events: Path,
    labels: Path,
    sent: Path,
    open_feeds: OpenFeeds = fixed_feeds,
) -> profile_job.ScoringTables:
    return profile_job.ScoringTables(
        source_table(events, settings, name="scoring_source", watermark=False),
        source_table(labels, settings, name="label_source", watermark=False),
        tables.file_sink("scoring_sink", sent, SINK_COLUMNS),
        scoring_udf(
            settings,
            SCORING_PARTS._replace(open_store=open_scoring_sink, open_feeds=open_feeds),
        ),
    )


def run_scoring_pipeline(
    records: list[Record],
    labels: list[Record],
    settings: Settings,
    folder: Path,
    open_feeds: OpenFeeds = fixed_feeds,
    open_merges: OpenMerges = follow_merges,
) -> ScoringOutput:
    """Runs the scoring pipeline alone. It reads events and labels in parallel, in any order."""
    sink = _sinks["scoring"] = MemoryScoringSink()
    paths = {name: folder / f"{name}.json" for name in ("events", "labels")}
    write_records(paths["events"], records, settings.topics.events)
    write_records(paths["labels"], labels, settings.topics.feedback)
    t_env = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    scoring = scoring_tables(
        settings, paths["events"], paths["labels"], folder / "sent", open_feeds
    )
    plan = profile_job.build(t_env, settings, scoring_tables=scoring, open_merges=open_merges)
    plan.execute().wait()
    return ScoringOutput(sink, list(read_sent(folder / "sent")))


def run_backfill_in_this_process(arguments: list[str], variables: Mapping[str, str]) -> None:
    """Instead of offline.backfill._run_embedded, which starts a process and its own Flink."""
    assert backfill_job.main(arguments) == 0


class ScoringInput(NamedTuple):
    """A row of the view scoring_input, which the scoring UDF is called with."""

    user_id: str
    parts: str


def run_scoring_views(
    records: list[Record], labels: list[Record], settings: Settings, folder: Path, *, batch: bool
) -> list[ScoringInput]:
    """Returns the rows of the view scoring_input.

    A stream reads records in the order of the files. In a batch, events and labels arrive at their
    own times.
    """
    folder.mkdir()
    paths = {name: folder / f"{name}.json" for name in ("events", "labels")}
    write_records(paths["events"], records, settings.topics.events)
    write_records(paths["labels"], labels, settings.topics.feedback)
    mode = EnvironmentSettings.in_batch_mode if batch else EnvironmentSettings.in_streaming_mode
    t_env = TableEnvironment.create(mode())
    profile_job.configure(t_env, settings)
    label_time = f"TO_TIMESTAMP_LTZ({sql.label_ms()}, 3)"
    clocks = {"events": event_clock(settings), "labels": label_time}
    for name, file in ("scoring_source", "events"), ("label_source", "labels"):
        arrival = {"arrival": clocks[file]} if batch else {}
        t_env.execute_sql(
            source_table(paths[file], settings, name=name, watermark=False, **arrival)
        )
    create_views(t_env, scoring_views.queries("scoring_source", "label_source", settings))
    t_env.execute_sql(tables.file_sink("sink", folder / "rows", "user_id STRING, parts STRING"))
    t_env.execute_sql("INSERT INTO sink SELECT user_id, parts FROM scoring_input").wait()
    return [ScoringInput(**row) for row in read_rows(folder / "rows")]
