"""The options of the job's sources and sink."""

import re

import pytest

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


SHADED = "org.apache.flink.kafka.shaded.org.apache.kafka.common"


@pytest.mark.parametrize(
    ("mechanism", "module"),
    [("PLAIN", "plain.PlainLoginModule"), ("SCRAM-SHA-256", "scram.ScramLoginModule")],
)
def test_password_is_quoted_for_the_login_module(mechanism: str, module: str) -> None:
    kafka = {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": mechanism,
        "username": "me",
        "password": 'a "quoted" \\ one',
    }
    written = tables.kafka_properties(load(kafka=kafka).kafka)
    assert written["properties.sasl.mechanism"] == mechanism
    assert written["properties.sasl.jaas.config"] == (
        f'{SHADED}.security.{module} required username="me" password="a \\"quoted\\" \\\\ one";'
    )
    assert not any("ssl" in name for name in written)
