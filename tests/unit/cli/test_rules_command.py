"""`liveprofile rules`: what it says, what it writes, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from liveprofile.kafka import records, topics
from liveprofile.kafka.records import Record
from tests.unit.liveprofile.rules.test_rules import ROOT, TEXT
from tests.unit.udfs.test_rules_feed import put, record
from udfs import rules_feed
from udfs.rules_feed import TopicRules

SCHEMA = json.loads((ROOT / "schemas/risk-rule.schema.json").read_text("utf-8"))
SETTINGS = 'rules = "{file}"\n'


class Topic:
    """In the place of Kafka: what was written can be read."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.created = 0

    def read(self, settings: Any) -> TopicRules:
        found = TopicRules()
        found.take(self.records)
        return found

    def send_all(self, settings: Any, topic: str, records: list[Any]) -> int:
        assert topic == "risk-rules"
        self.records += [record(key.decode(), value) for key, value, _ in records]
        return len(records)

    def create_topics(self, settings: Any) -> list[str]:
        self.created += 1
        return []


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Topic:
    found = Topic()
    monkeypatch.setattr(rules_feed, "read_topic_rules", found.read)
    monkeypatch.setattr(records, "send_all", found.send_all)
    monkeypatch.setattr(topics, "create_topics", found.create_topics)
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rules.toml"
    path.write_text(TEXT + TEXT.partition("\n")[2].replace('"many"', '"more"'))
    return path


def run(file: Path, *arguments: str) -> Result:
    config = file.with_name("liveprofile.toml")
    config.write_text(SETTINGS.format(file=file))
    return CliRunner().invoke(app, ["rules", *arguments, "--config", str(config)])


def changes(result: Result) -> dict[str, tuple[str, int | None]]:
    found = json.loads(result.stdout)["changes"]
    return {one["rule_id"]: (one["what"], one["version"]) for one in found}


def test_check_says_that_nothing_is_wrong(file: Path) -> None:
    result = CliRunner().invoke(app, ["rules", "check", str(file)])
    assert (result.exit_code, result.stdout) == (
        0, f"{file}: version 1, 2 rules, nothing wrong\n",
    )  # fmt: skip


def test_check_tells_every_error_and_exits_with_2(file: Path) -> None:
    file.write_text(file.read_text().replace("purchases >=", "purchase >="))
    result = CliRunner().invoke(app, ["rules", "check", str(file)])
    assert (result.exit_code, result.stdout) == (2, "")
    reason = "when, column 1: unknown name purchase; purchases?"
    assert result.stderr.splitlines() == [
        f"liveprofile: rules file {file}:6: rule many: {reason}",
        f"liveprofile: rules file {file}:18: rule more: {reason}",
    ]
    result = CliRunner().invoke(app, ["rules", "check", str(file), "--json"])
    found = json.loads(result.stdout)
    assert (result.exit_code, found["ok"]) == (2, False)
    assert found["problems"][1] == {
        "file": str(file), "line": 18, "rule": "more", "key": "when", "column": "column 1",
        "reason": "unknown name purchase; purchases?",
    }  # fmt: skip


def test_apply_writes_what_has_changed(file: Path, topic: Topic) -> None:
    assert changes(run(file, "apply", str(file), "--json", "--by", "anna")) == {
        "many": ("added", 1),
        "more": ("added", 1),
    }
    for written in topic.records:
        value = json.loads(written.value)
        jsonschema.validate(value, SCHEMA)
        assert (value["id"].encode(), value["applied_by"]) == (written.key, "anna")

    file.write_text(TEXT.replace("threshold = 3", "threshold = 4"))
    assert changes(run(file, "apply", str(file), "--json")) == {
        "many": ("changed", 2),
        "more": ("removed", None),
    }
    assert [(one.key, one.value is None) for one in topic.records[2:]] == [
        (b"many", False),
        (b"more", True),
    ]
    [left] = topic.read(None).rules().rules
    assert (left.version, left.threshold) == (2, 4)

    result = run(file, "apply", str(file))
    assert (result.exit_code, result.stdout) == (0, "unchanged  many  version 2\n")
    assert (len(topic.records), topic.created) == (4, 2)


def test_a_dry_run_writes_nothing(file: Path, topic: Topic) -> None:
    result = run(file, "apply", str(file), "--dry-run")
    assert result.stdout == "added      many  version 1\nadded      more  version 1\n"
    assert (topic.records, topic.created) == ([], 0)


def test_apply_writes_nothing_if_anything_is_wrong(file: Path, topic: Topic) -> None:
    file.write_text(file.read_text().replace('"MANY"', '"many"', 1))
    result = run(file, "apply", str(file))
    assert result.exception.exit_code == 2
    assert "rule many: reason" in str(result.exception)
    assert (topic.records, topic.created) == ([], 0)


def test_apply_mends_what_can_not_be_read(file: Path, topic: Topic) -> None:
    run(file, "apply", str(file))
    topic.records += [record("many", b"{"), record("unknown", b"{")]
    assert changes(run(file, "apply", str(file), "--json")) == {
        "many": ("changed", 2),
        "more": ("unchanged", 1),
        "unknown": ("removed", None),
    }
    assert topic.read(None).unreadable == set()


def test_list_shows_the_files_rules_until_the_topic_has_one(file: Path, topic: Topic) -> None:
    found = json.loads(run(file, "list", "--json").stdout)
    assert (found["source"], found["version"]) == (f"file {file}", "1")
    assert [one["id"] for one in found["rules"]] == ["many", "more"]
    topic.records.append(put("other", state="SHADOW"))
    shown = run(file, "list").stdout.splitlines()
    assert shown[0].endswith("from topic risk-rules")
    assert shown[1:] == ["other    1  event   SHADOW  amount >= threshold"]
