"""Rules that `liveprofile risk rules` writes to the topic reach a running worker."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from liveprofile.feeds.definitions import follow_definitions
from liveprofile.kafka.records import Record, read_topic, send_all
from liveprofile.resources import product_path
from liveprofile.rules.rules import RULES, RuleSet, read_rules
from tests.support.job_under_test import JobUnderTest
from tests.support.waiting import until

pytestmark = pytest.mark.services

TAKES_EFFECT_TIMEOUT_S = 5.0


@pytest.fixture(scope="module")
def job(new_job: Callable[..., JobUnderTest]) -> JobUnderTest:
    """Has its topics only; it is not submitted."""
    return new_job("rules", tables=False)


@pytest.fixture(scope="module")
def shipped(job: JobUnderTest) -> RuleSet:
    return read_rules(product_path(job.settings.rules))


wait_until = partial(until, timeout_s=TAKES_EFFECT_TIMEOUT_S)


def apply(job: JobUnderTest, file: Path, *arguments: str) -> dict[str, list]:
    done = job.cli("risk", "rules", "apply", file, *arguments, "--json")
    return {change["rule_id"]: change for change in json.loads(done.stdout)["changes"]}


def test_applied_rules_take_effect_in_running_worker(
    job: JobUnderTest, shipped: RuleSet, tmp_path: Path
) -> None:
    feed = follow_definitions(job.settings, RULES, shipped)
    assert feed.current() is shipped  # the topic has no record
    file = tmp_path / "rules.toml"
    text = product_path(job.settings.rules).read_text(encoding="utf-8")
    file.write_text(text.replace("threshold = 7.5", "threshold = 6.5"), encoding="utf-8")
    assert {change["what"] for change in apply(job, file, "--dry-run").values()} == {"added"}
    assert feed.current() is shipped
    apply(job, file)
    wait_until(
        lambda: feed.current() is not shipped and len(feed.current().rules) == len(shipped.rules)
    )
    assert {rule.id: rule.threshold for rule in feed.current().rules}["behaviour_surprise"] == 6.5

    changed = apply(job, product_path(job.settings.rules))
    assert changed.pop("behaviour_surprise") == {
        "rule_id": "behaviour_surprise",
        "what": "changed",
        "version": 2,
    }
    assert {change["what"] for change in changed.values()} == {"unchanged"}
    file.write_text(text.partition("# Rules for single events")[0], encoding="utf-8")
    apply(job, file)
    wait_until(lambda: len(feed.current().rules) == 3)
    assert feed.current().evaluated("event") == []

    # A worker that starts now has them at once.
    new_feed = follow_definitions(job.settings, RULES, shipped)
    assert new_feed.current() == feed.current()
    new_feed.close()
    listed = job.run("risk", "rules", "list")
    assert listed["version"] == feed.current().version
    assert listed["source"] == f"topic {job.settings.topics.rules}"
    send_all(job.settings, job.settings.topics.rules, [(b"purchase_amount", b"{", {})])
    wait_until(lambda: feed.invalid_records == 1)
    assert feed.current() == new_feed.current()
    feed.close()


def send_again(job: JobUnderTest, records: list[Record], **headers: str) -> None:
    """Copies records of the topic; `headers` replaces headers of the same name."""
    copies = [
        (record.key, record.value, {k: v.decode() for k, v in record.headers.items()} | headers)
        for record in records
    ]
    send_all(job.settings, job.settings.topics.rules, copies)


def test_worker_with_signing_key_uses_signed_records_only(
    new_job: Callable[..., JobUnderTest], shipped: RuleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEPROFILE_RULES_SIGNING_KEY", "k" * 32)
    job = new_job("signed_rules", tables=False)
    topic, file = job.settings.topics.rules, product_path(job.settings.rules)
    feed = follow_definitions(job.settings, RULES, shipped)
    rule = json.dumps(shipped.rules[0].model_dump(mode="json")).encode()
    send_all(job.settings, topic, [(shipped.rules[0].id.encode(), rule, {})])
    wait_until(lambda: feed.invalid_records == 1)
    assert feed.current() is shipped

    apply(job, file)
    wait_until(lambda: feed.current() is not shipped)
    assert {rule.id for rule in feed.current().rules} == {rule.id for rule in shipped.rules}
    before = feed.current()
    first = [record for record in read_topic(job.settings, topic) if record.headers]

    changed_file = job.config_file.with_name("changed.toml")
    text = file.read_text(encoding="utf-8")
    changed_file.write_text(text.replace("threshold = 7.5", "threshold = 6.5"), encoding="utf-8")
    apply(job, changed_file)
    wait_until(lambda: feed.current().version != before.version)
    in_force = feed.current()

    refused = feed.invalid_records
    send_again(job, first)  # an older set
    send_again(job, first[-1:], **{"signed-ms": str(2**53)})
    wait_until(lambda: feed.invalid_records == refused + len(first) + 1)
    feed.close()
    assert feed.current() == in_force
    listed = job.run("risk", "rules", "list")
    assert listed["version"] == in_force.version

    monkeypatch.setenv("LIVEPROFILE_RULES_SIGNING_KEY", "o" * 32)
    listed = job.run("risk", "rules", "list")
    assert listed["source"] == f"file {file}"
