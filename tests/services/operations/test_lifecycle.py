"""The life of a job by commands: setup, doctor, rejected events, upgrade, stop, cancel."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from liveprofile.flink import rest
from liveprofile.kafka.connection import client_config
from liveprofile.kafka.records import read_topic
from liveprofile.kafka.topics import delete_topics
from liveprofile.settings import TopicSettings, load
from liveprofile.units import HOUR_MS
from stack.local import to_toml
from tests.support.job_under_test import JobUnderTest, run_cli
from tests.support.streams.seeded import Message
from tests.support.streams.shop import START_MS, shop_events

pytestmark = pytest.mark.services

EVENTS = 300


def messages(seed: int, start_ms: int) -> list[Message]:
    events = itertools.islice(shop_events(seed, 20, 60_000, start_ms), EVENTS)
    return [Message(each["user_id"].encode(), json.dumps(each).encode()) for each in events]


@pytest.fixture(scope="module")
def job(new_job) -> Iterator[JobUnderTest]:
    window = {"length_ms": HOUR_MS, "out_of_orderness_ms": HOUR_MS}
    job = new_job("lifecycle", window=window, scoring={"enabled": False})
    yield job
    # A test that failed leaves a job; after an upgrade it has another id.
    run_cli("job", "cancel", "--config", job.config_file, ok=False)


def other_settings(job: JobUnderTest, name: str, /, **sections: dict[str, object]) -> Path:
    """A settings file like the job's, with other values."""
    content = load(job.config_file).model_dump(mode="json", exclude_unset=True)
    for section, values in sections.items():
        content[section] = content.get(section, {}) | values
    file = job.config_file.with_name(name)
    file.write_text(to_toml(content))
    return file


def resend_corrected_event(job: JobUnderTest) -> None:
    """Sends an event that is rejected, then its correction."""
    event = json.loads(messages(3, START_MS)[-1].value) | {"event_id": "corrected", "price": "x"}
    job.send([Message(b"u", json.dumps(event).encode())])
    job.wait_until_caught_up()
    assert job.run("events", "rejected", "list", "--since", "2099-01-01") == []
    (listed,) = job.run("events", "rejected", "list", "--reason", "BAD_NUMBER", "--since", "1h")
    shown = job.run("events", "rejected", "show", listed["id"])
    assert shown == listed and shown["detail"] == "price"

    corrections = job.config_file.with_name("corrected.jsonl")
    corrections.write_text(json.dumps(shown))
    unchanged = run_cli(
        "events", "rejected", "resend", corrections, "--config", job.config_file, ok=False
    )
    assert unchanged.returncode == 2 and "unchanged" in unchanged.stderr
    corrections.write_text(json.dumps(shown | {"payload": event | {"price": 9.5}}))
    assert job.run("events", "rejected", "resend", str(corrections)) == {"records": 1, "sent": True}
    resent = [each for each in read_topic(job.settings, job.settings.topics.events) if each.headers]
    assert [each.headers["resent_offset"] for each in resent] == [str(shown["offset"]).encode()]
    assert resent[0].key == str(event["user_id"]).encode()


def test_doctor_has_no_finding_on_a_healthy_stack(job: JobUnderTest) -> None:
    report = job.run("doctor", ok=False)
    assert report["ok"], report["findings"]
    assert len(report["checks"]) >= 15 and report["skipped"] == []


def test_doctor_names_what_is_broken(job: JobUnderTest, tmp_path: Path) -> None:
    topics = TopicSettings.prefixed("broken")
    file = other_settings(
        job,
        "broken.toml",
        topics=topics,
        cassandra={"keyspace": "nowhere"},
        flink={"rest_url": "http://127.0.0.1:1"},
        job={"parallelism": 3},
    )
    settings = load(file)
    admin = AdminClient(client_config(settings.kafka))
    created = [
        NewTopic(topics["events"], 2, 1, config={"retention.ms": "60000"}),
        NewTopic(topics["rules"], 2, 1, config={"cleanup.policy": "delete"}),
    ]
    for future in admin.create_topics(created).values():
        future.result()
    try:
        done = run_cli("doctor", "--json", "--config", file, ok=False)
    finally:
        delete_topics(settings.kafka, [topics["events"], topics["rules"]])
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert {finding["check"] for finding in report["findings"]} == {
        "topics exist",
        "topic timestamps",
        "topic cleanup",
        "topic retention",
        "topic partitions",
        "keyspace",
        "flink reachable",
    }, report["findings"]
    assert "slots" in report["skipped"]


def test_setup_creates_nothing_that_exists(job: JobUnderTest) -> None:
    assert job.run("job", "setup", "--dry-run") == {
        "topics_missing": [],
        "migrations_pending": [],
        "migrations_waiting": [],
    }
    assert job.run("job", "setup") == {
        "topics_created": [],
        "keyspace": job.settings.cassandra.keyspace,
        "migrations_applied": [],
    }
    steps = job.run("job", "migrations", "list")
    assert {step["state"] for step in steps} == {"applied"} and steps


def test_job_survives_upgrades_stop_and_restart_without_losing_an_event(job: JobUnderTest) -> None:
    first = job.submit()
    # `status` exits with 1 while the first checkpoint is overdue, as on a busy machine.
    assert first in run_cli("job", "status", "--config", job.config_file, ok=False).stdout
    job.send(messages(1, START_MS))
    resend_corrected_event(job)
    job.wait_until_committed()

    # The savepoint does not fit these windows, so the job refuses to start.
    other_windows = other_settings(job, "other.toml", window={"length_ms": 2 * HOUR_MS})
    done = run_cli(
        "job",
        "upgrade",
        "--config",
        other_windows,
        "--fallback",
        job.config_file,
        "--json",
        ok=False,
    )
    failed = json.loads(done.stdout)
    assert done.returncode == 1 and "window.length_ms" in failed["failure"], done.stderr
    assert job.run("job", "status", ok=False)["job_id"] == failed["job_id"] != first
    assert rest.job_state(job.rest_url, first) == "FINISHED"

    job.send(messages(2, START_MS + 6 * HOUR_MS))
    faster = other_settings(job, "faster.toml", job={"checkpoint_interval_ms": 2_000})
    done = run_cli("job", "upgrade", "--config", faster, "--json")
    upgraded = json.loads(done.stdout)
    assert upgraded["failure"] is None
    assert rest.job_state(job.rest_url, failed["job_id"]) == "FINISHED"

    stopped = job.run("job", "stop")
    assert stopped["job_id"] == upgraded["job_id"]
    done = run_cli("job", "stop", "--config", job.config_file, ok=False)
    assert done.returncode == 1 and "no job named" in done.stderr

    job.submit("--savepoint", stopped["savepoint"])
    taken = job.run("job", "savepoint")
    assert taken["job_id"] == job.id and taken["savepoint"].startswith("file:")
    assert job.state() == "RUNNING"
    job.send_heartbeats(START_MS + 100 * HOUR_MS)
    job.wait_until_committed()
    report = job.audit()
    assert report["ok"] and report["used"] == 2 * EVENTS + 1, report
    assert report["rejected"] == 1

    cancelled = job.run("job", "cancel")
    assert cancelled["job_id"] == job.id and cancelled["checkpoint"].startswith("file:")
    assert job.state() == "CANCELED"
