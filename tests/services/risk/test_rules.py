"""Signed rules of the topic. tests/services/live/test_scoring.py applies others to a job."""

import json
from collections.abc import Callable
from functools import partial

import pytest

from liveprofile.feeds.definitions import follow_definitions
from liveprofile.kafka.records import Record, read_topic, send_all
from liveprofile.resources import product_path
from liveprofile.rules.rules import RULES, read_rules
from tests.support.job_under_test import JobUnderTest
from tests.support.waiting import until

TAKES_EFFECT_TIMEOUT_S = 5.0


wait_until = partial(until, timeout_s=TAKES_EFFECT_TIMEOUT_S)


def send_again(job: JobUnderTest, records: list[Record], **headers: str) -> None:
    """Copies records of the topic; `headers` replaces headers of the same name."""
    copies = [
        (record.key, record.value, {k: v.decode() for k, v in record.headers.items()} | headers)
        for record in records
    ]
    send_all(job.settings, job.settings.topics.rules, copies)


def test_worker_with_signing_key_uses_signed_records_only(
    new_job: Callable[..., JobUnderTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEPROFILE_RULES_SIGNING_KEY", "k" * 32)
    job = new_job("signed_rules", tables=False)
    topic, file = job.settings.topics.rules, product_path(job.settings.rules)
    shipped = read_rules(file)
    feed = follow_definitions(job.settings, RULES, shipped)
    rule = json.dumps(shipped.rules[0].model_dump(mode="json")).encode()
    send_all(job.settings, topic, [(shipped.rules[0].id.encode(), rule, {})])
    wait_until(lambda: feed.invalid_records == 1)
    assert feed.current() is shipped

    job.cli("risk", "rules", "apply", file)
    wait_until(lambda: feed.current() is not shipped)
    assert {rule.id for rule in feed.current().rules} == {rule.id for rule in shipped.rules}
    before = feed.current()
    first = [record for record in read_topic(job.settings, topic) if record.headers]

    changed_file = job.config_file.with_name("changed.toml")
    text = file.read_text(encoding="utf-8")
    changed_file.write_text(text.replace("threshold = 7.5", "threshold = 6.5"), encoding="utf-8")
    job.cli("risk", "rules", "apply", changed_file)
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
