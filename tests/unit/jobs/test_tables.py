"""Where the sources of the job start, and how far their partitions may drift apart."""

from __future__ import annotations

import re

import pytest

from jobs import profile_job
from jobs.sql import tables
from liveprofile.settings import load


def source_options(mode: str, **arguments: object) -> tuple[str, ...]:
    settings = load(kafka={"startup_mode": mode})
    return (
        tables.kafka_source("source", settings, **arguments),
        tables.kafka_scoring_source("scoring", settings, "events", 10, **arguments),
    )


@pytest.mark.parametrize("mode", ["earliest", "latest", "group"])
def test_offsets_after_an_archive_override_the_setting(mode: str) -> None:
    for ddl in source_options(mode, start_offsets={0: 5, 3: 0}):
        assert "'scan.startup.mode' = 'specific-offsets'" in ddl
        assert (
            "'scan.startup.specific-offsets' = 'partition:0,offset:5;partition:3,offset:0'" in ddl
        )


def test_partitions_are_aligned_by_the_setting_in_a_stream_only() -> None:
    aligned = load(window={"max_partition_drift_ms": 60_000})
    assert "'scan.watermark.alignment.max-drift' = '60000 ms'" in tables.kafka_source("s", aligned)
    for ddl in (
        tables.kafka_source("s", load()),
        tables.kafka_source("s", aligned, bounded=True),
        tables.kafka_scoring_source("s", aligned, "events", 10),
    ):
        assert "alignment" not in ddl


def test_setting_bounds_the_wait_of_a_fetch_of_scored_events_only() -> None:
    made = profile_job.kafka_scoring_tables(load(scoring={"fetch_wait_ms": 123}))
    assert "'properties.fetch.max.wait.ms' = '123'" in made.source
    assert "'properties.fetch.max.wait.ms' = '500'" in made.labels


def test_sink_writes_every_topic_that_the_job_sends_to() -> None:
    topics = load().topics
    ddl = tables.kafka_sink("sink", load())
    sent = (topics.rejected, topics.late, topics.alerts, topics.segment_changes)
    assert f"'topic' = '{';'.join(sent)}'" in ddl


def test_two_jobs_share_no_consumer_group_and_no_transaction() -> None:
    """So an old and a new job can run at the same time (docs/operate.md)."""
    old, new = load(), load(job={"name": "green"}, kafka={"group_id": "green"})
    groups = [
        {
            *re.findall(r"'properties.group.id' = '([^']+)'", tables.kafka_source("s", settings)),
            *re.findall(
                r"'properties.group.id' = '([^']+)'",
                tables.kafka_scoring_source("s", settings, "events", 10),
            ),
        }
        for settings in (old, new)
    ]
    assert [len(each) for each in groups] == [2, 2] and groups[0].isdisjoint(groups[1])
    ddl = tables.kafka_sink("sink", new)
    assert "'sink.delivery-guarantee' = 'at-least-once'" in ddl and "transactional" not in ddl
    assert ddl == tables.kafka_sink("sink", old)
