"""Risk rules by the topic: what `liveprofile rules` writes reaches a worker that runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from liveprofile.kafka.connection import client_config
from liveprofile.kafka.records import send_all
from liveprofile.resources import product_path
from liveprofile.rules.rules import RuleSet, read_rules
from tests.support.job_under_test import JobUnderTest, run_cli
from udfs.rules_feed import RulesFeed, open_rules_feed

pytestmark = pytest.mark.services

IN_FORCE_S = 5.0


@pytest.fixture(scope="module")
def job(new_job: Callable[..., JobUnderTest]) -> JobUnderTest:
    """Its topics only: no job is submitted."""
    return new_job("rules")


@pytest.fixture(scope="module")
def shipped(job: JobUnderTest) -> RuleSet:
    return read_rules(product_path(job.settings.rules))


@pytest.fixture(scope="module")
def feed(job: JobUnderTest, shipped: RuleSet) -> Iterator[RulesFeed]:
    """A worker's, opened before the topic has a record."""
    feed = open_rules_feed(job.settings, shipped)
    yield feed
    feed.close()


def until(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + IN_FORCE_S
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.05)


def apply(job: JobUnderTest, file: Path, *arguments: str) -> dict[str, list]:
    done = run_cli("rules", "apply", file, *arguments, "--json", "--config", job.config_file)
    return {change["rule_id"]: change for change in json.loads(done.stdout)["changes"]}


def test_the_topic_is_compacted_and_has_one_partition(job: JobUnderTest) -> None:
    topic = job.settings.topics.rules
    admin = AdminClient(client_config(job.settings.kafka))
    [future] = admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]).values()
    assert future.result()["cleanup.policy"].value == "compact"
    assert len(admin.list_topics(topic).topics[topic].partitions) == 1


def test_rules_come_into_force_while_a_worker_runs(
    job: JobUnderTest, feed: RulesFeed, shipped: RuleSet, tmp_path: Path
) -> None:
    assert feed.current() is shipped
    file = tmp_path / "rules.toml"
    text = product_path(job.settings.rules).read_text(encoding="utf-8")
    file.write_text(text.replace("threshold = 7.5", "threshold = 6.5"), encoding="utf-8")
    assert {change["what"] for change in apply(job, file, "--dry-run").values()} == {"added"}
    assert feed.current() is shipped
    apply(job, file)
    until(lambda: feed.current() is not shipped and len(feed.current().rules) == len(shipped.rules))
    assert {rule.id: rule.threshold for rule in feed.current().rules}["behaviour_surprise"] == 6.5

    changed = apply(job, product_path(job.settings.rules))
    assert changed.pop("behaviour_surprise") == {
        "rule_id": "behaviour_surprise", "what": "changed", "version": 2,
    }  # fmt: skip
    assert {change["what"] for change in changed.values()} == {"unchanged"}
    file.write_text(text.partition("# Single events")[0], encoding="utf-8")
    apply(job, file)
    until(lambda: len(feed.current().rules) == 3)
    assert feed.current().evaluated("event") == []

    late = open_rules_feed(job.settings, shipped)  # a worker that begins now knows them at once
    assert late.current() == feed.current()
    late.close()
    listed = json.loads(run_cli("rules", "list", "--json", "--config", job.config_file).stdout)
    assert listed["version"] == feed.current().version
    assert listed["source"] == f"topic {job.settings.topics.rules}"


def test_a_broken_record_leaves_the_rules_in_force(job: JobUnderTest, feed: RulesFeed) -> None:
    before = feed.current()
    send_all(job.settings, job.settings.topics.rules, [(b"purchase_amount", b"{", {})])
    until(lambda: feed.invalid_records == 1)
    assert feed.current() == before


def test_a_file_with_an_error_is_refused_whole(
    job: JobUnderTest, feed: RulesFeed, tmp_path: Path
) -> None:
    before = feed.current()
    file = tmp_path / "rules.toml"
    text = product_path(job.settings.rules).read_text(encoding="utf-8")
    file.write_text(text.replace("surprise >= threshold", "suprise >= threshold"), encoding="utf-8")
    done = run_cli("rules", "apply", file, "--config", job.config_file, ok=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "rule behaviour_surprise: when, column 1: unknown name suprise; surprise?" in done.stderr
    assert feed.current() == before
