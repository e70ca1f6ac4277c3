"""Commands about a job and its stack: setup, doctor, rejected events."""

import json

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from liveprofile.errors import ServiceError
from liveprofile.feeds.users import read_consents, read_erasures, read_merges
from liveprofile.kafka.connection import client_config
from liveprofile.kafka.topics import create_topics, delete_topics, missing_topics, topic_configs
from liveprofile.settings import load
from liveprofile.storage.connection import open_session
from liveprofile.storage.cql import now_ms
from liveprofile.units import MINUTE_MS
from tests.support.job_under_test import JobUnderTest, run_cli
from tests.support.streams.seeded import Message
from tests.support.streams.shop import shop_events
from tests.support.waiting import until


def test_doctor_has_no_finding_on_a_healthy_stack(job: JobUnderTest) -> None:
    report = job.run("doctor", ok=False)
    assert report["ok"], report["findings"]
    assert len(report["checks"]) >= 15 and report["skipped"] == []


def test_doctor_names_what_is_broken(job: JobUnderTest) -> None:
    file = job.other_settings(
        "broken.toml",
        topics={"prefix": "broken-"},
        cassandra={"keyspace": "nowhere"},
        flink={"rest_url": "http://127.0.0.1:1"},
        job={"parallelism": 3},
    )
    settings = load(file)
    admin = AdminClient(client_config(settings.kafka))
    created = [
        NewTopic(settings.topics.events, 2, 1, config={"retention.ms": "60000"}),
        NewTopic(settings.topics.rules, 2, 1, config={"cleanup.policy": "delete"}),
    ]
    for future in admin.create_topics(created).values():
        future.result()
    try:
        done = run_cli("doctor", "--json", "--config", file, ok=False)
    finally:
        delete_topics(settings.kafka, [settings.topics.events, settings.topics.rules])
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert {finding["check"] for finding in report["findings"]} == {
        "topics exist",
        "topic settings",
        "topic partitions",
        "keyspace",
        "flink reachable",
    }, report["findings"]
    assert "slots" in report["skipped"]


def test_setup_creates_nothing_that_exists(job: JobUnderTest) -> None:
    assert job.run("job", "setup", "--dry-run") == {"topics_missing": [], "keyspace_lacks": []}
    assert job.run("job", "setup") == {
        "topics_created": [],
        "keyspace": job.settings.cassandra.keyspace,
        "keyspace_added": [],
    }


def test_decisions_of_a_topic_that_was_created_again_are_refused_until_setup_fills_it(
    job: JobUnderTest,
) -> None:
    sections = {"cassandra": {"keyspace": "lost"}, "merges": {"enabled": True}}
    file = job.other_settings("lost.toml", topics={"prefix": "lost-"}, **sections)
    merges = (settings := load(file)).topics.merges
    withdrawal = "privacy consent set withdrawn --withdraw profiling"
    for command in ("job setup", withdrawal, "privacy erase erased"):
        run_cli(*command.split(), "--config", file)
    decisions = [settings.topics.consents, settings.topics.erasures, merges]
    delete_topics(settings.kafka, decisions)
    until(lambda: {*decisions} <= {*missing_topics(settings)})
    create_topics(settings)
    for read in (read_consents, read_erasures, read_merges):
        with pytest.raises(ServiceError, match="created again"):
            read(settings)
    done = run_cli("job", "setup", "--config", file, ok=False)  # no table has the merges
    assert done.returncode == 3 and f"{merges} has lost its merges" in done.stderr
    with open_session(settings.cassandra) as session:
        session.execute(f"DELETE FROM decision_topic WHERE topic = '{merges}'")
    run_cli("job", "setup", "--config", file)
    assert not len(read_merges(settings))
    assert not read_consents(settings).allowed("withdrawn", "profiling", now_ms())
    assert read_erasures(settings).is_erased("erased", now_ms() - MINUTE_MS)
    delete_topics(settings.kafka, list(topic_configs(settings.topics)))


def test_rejected_event_is_listed_and_shown(job: JobUnderTest) -> None:
    event = next(shop_events(3, 20, 60_000)) | {"event_id": "corrected", "price": "x"}
    job.send([Message(b"u", json.dumps(event).encode())])
    job.wait_until_caught_up()
    assert job.run("events", "rejected", "list", "--since", "2099-01-01") == []
    options = ("--reason", "BAD_NUMBER", "--since", "1h", "--limit", "10000")
    (listed,) = (
        each for each in job.run("events", "rejected", "list", *options) if "corrected" in str(each)
    )
    shown = job.run("events", "rejected", "show", listed["id"])
    assert shown == listed and shown["detail"] == "price"
