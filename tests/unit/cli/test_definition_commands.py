"""Commands of rules and segments: output, records written to the topic, exit codes."""

import functools
import json
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from liveprofile.feeds.definition_topics import (
    APPLIED_KEY,
    definition_signer,
    read_definition_topic,
)
from liveprofile.kafka.records import Record
from liveprofile.rules.rules import RULES
from liveprofile.settings import load
from tests.support.memory.kafka import MemoryKafka
from tests.support.paths import ROOT
from tests.support.rows.rule_examples import RULES_TOML, raw_rule_record, rule_record, signed
from tests.support.rows.segment_examples import SEGMENTS_TOML

SCHEMA = json.loads((ROOT / "schemas/risk-rule.schema.json").read_text("utf-8"))


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> MemoryKafka:
    kafka = MemoryKafka()
    kafka.install(monkeypatch)
    return kafka


@pytest.fixture
def topic(kafka: MemoryKafka) -> list[Record]:
    return kafka.records["risk-rules"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rules.toml"
    path.write_text(RULES_TOML + RULES_TOML.partition("\n")[2].replace('"many"', '"more"'))
    return path


def run(file: Path, *arguments: str, group: tuple[str, ...] = ("risk", "rules")) -> Result:
    config = file.with_name("liveprofile.toml")
    config.write_text(f'{group[-1]} = "{file}"\n')
    return CliRunner().invoke(app, [*group, *arguments, "--config", str(config)])


run_segments = functools.partial(run, group=("segments",))


def changes(result: Result) -> dict[str, tuple[str, int | None]]:
    """rule_id -> (kind of change, new version), from the JSON output of `rules apply`."""
    listed = json.loads(result.stdout)["changes"]
    return {change["rule_id"]: (change["what"], change["version"]) for change in listed}


def test_check_prints_every_error_and_exits_with_2(file: Path) -> None:
    result = CliRunner().invoke(app, ["risk", "rules", "check", str(file)])
    assert (result.exit_code, result.stdout) == (0, f"{file}: version 1, 2 rules, no errors\n")
    file.write_text(file.read_text().replace("purchases >=", "purchase >="))
    result = CliRunner().invoke(app, ["risk", "rules", "check", str(file)])
    assert (result.exit_code, result.stdout) == (2, "")
    reason = "when, column 1: unknown name purchase; purchases?"
    assert result.stderr.splitlines() == [
        f"liveprofile: rules file {file}:6: rule many: {reason}",
        f"liveprofile: rules file {file}:18: rule more: {reason}",
    ]
    result = CliRunner().invoke(app, ["risk", "rules", "check", str(file), "--json"])
    result_json = json.loads(result.stdout)
    assert (result.exit_code, result_json["ok"]) == (2, False)
    assert result_json["problems"][1] == {
        "file": str(file),
        "line": 18,
        "rule": "more",
        "key": "when",
        "column": "column 1",
        "reason": "unknown name purchase; purchases?",
    }


def test_apply_writes_added_changed_and_removed_rules(file: Path, topic: list[Record]) -> None:
    assert changes(run(file, "apply", str(file), "--json", "--by", "anna")) == {
        "many": ("added", 1),
        "more": ("added", 1),
    }
    applied, *rules = topic
    assert applied.key == APPLIED_KEY and json.loads(applied.value)["applied_by"] == "anna"
    for written_record in rules:
        value = json.loads(written_record.value)
        jsonschema.validate(value, SCHEMA)
        assert (value["id"].encode(), value["applied_by"]) == (written_record.key, "anna")

    file.write_text(RULES_TOML.replace("threshold = 3", "threshold = 4"))
    assert changes(run(file, "apply", str(file), "--json")) == {
        "many": ("changed", 2),
        "more": ("removed", None),
    }
    assert [(record.key, record.value is None) for record in topic[3:]] == [
        (APPLIED_KEY, False),
        (b"many", False),
        (b"more", True),
    ]
    [left] = read_definition_topic(load(), RULES).value().rules
    assert (left.version, left.threshold) == (2, 4)

    result = run(file, "apply", str(file))
    assert result.stdout.split()[-3:] == ["unchanged", "many", "2"]
    assert len(topic) == 6


def test_apply_signs_its_records_with_the_signing_key(
    file: Path, topic: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEPROFILE_RULES_SIGNING_KEY", "k" * 32)
    run(file, "apply", str(file))
    file.write_text(RULES_TOML)
    run(file, "apply", str(file))
    settings = load()
    assert [rule.id for rule in read_definition_topic(settings, RULES).value().rules] == ["many"]
    first, second = topic[:3], topic[3:]
    assert [record.value is None for record in second] == [False, True]
    times = [int(record.headers["signed-ms"]) for record in (*first, *second)]
    assert times[:3] == times[:1] * 3 and times[3:] == times[3:4] * 2 and times[3] > times[0]

    # A signing time ahead of this clock does not keep the next change from being accepted.
    signer = definition_signer(settings, settings.topics.rules)
    topic.append(signed(rule_record("many", version=3), signer, times[-1] + 10**9))
    run(file, "apply", str(file))
    assert read_definition_topic(settings, RULES).invalid_records == 0
    assert read_definition_topic(settings, RULES).value().rules[0].version == 4


def test_apply_repairs_a_topic_with_unsigned_records(
    file: Path, topic: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(file, "apply", str(file))
    monkeypatch.setenv("LIVEPROFILE_RULES_SIGNING_KEY", "k" * 32)
    assert changes(run(file, "apply", str(file), "--json")) == {
        "many": ("added", 1),
        "more": ("added", 1),
    }
    assert read_definition_topic(load(), RULES).invalid_ids == set()
    for unsigned in (raw_rule_record("*", b"{}"), raw_rule_record("stranger", None)):
        topic.append(unsigned)
        run(file, "apply", str(file))
        assert read_definition_topic(load(), RULES).invalid_ids == set()


@pytest.mark.parametrize("key", ["", "hunter2"])
def test_short_signing_key_is_rejected_without_showing_it(
    key: str, file: Path, topic: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEPROFILE_RULES_SIGNING_KEY", key)
    result = run(file, "apply", str(file))
    assert (result.exception.exit_code, topic) == (2, [])
    assert "rules_signing_key = ********: " in str(result.exception)
    assert "at least 32" in str(result.exception) and "hunter2" not in str(result.exception)


def test_list_shows_file_rules_until_topic_has_records(file: Path, topic: list[Record]) -> None:
    result_json = json.loads(run(file, "list", "--json").stdout)
    assert (result_json["source"], result_json["version"]) == (f"file {file}", "1")
    assert [rule["id"] for rule in result_json["rules"]] == ["many", "more"]
    topic.append(rule_record("other", state="SHADOW"))
    first, *_, last = run(file, "list").stdout.rstrip().splitlines()
    assert first.endswith("from topic risk-rules")
    assert last.split() == ["other", "1", "event", "SHADOW", "amount", ">=", "threshold"]


@pytest.fixture
def segments(tmp_path: Path) -> Path:
    path = tmp_path / "segments.toml"
    path.write_text(SEGMENTS_TOML)
    return path


def test_apply_writes_segments_that_list_then_shows(segments: Path, kafka: MemoryKafka) -> None:
    topic = kafka.records["segment-definitions"]
    assert f"version 1, from file {segments}" in run_segments(segments, "list").stdout
    assert run_segments(segments, "apply", str(segments), "--dry-run").stdout.split()[-3:] == [
        "added",
        "buyer",
        "1",
    ]
    assert topic == []
    run_segments(segments, "apply", str(segments), "--by", "anna")
    assert [record.key for record in topic] == [b"*", b"buyer"]
    assert json.loads(topic[1].value)["applied_by"] == "anna"
    segments.write_text(SEGMENTS_TOML.replace(">= 3", ">= 4"))
    listed = json.loads(run_segments(segments, "apply", str(segments), "--json").stdout)
    assert listed["changes"] == [{"segment_id": "buyer", "what": "changed", "version": 2}]
    last = run_segments(segments, "list").stdout.rstrip().splitlines()[-1]
    assert last.split() == ["buyer", "2", "ACTIVE", "purchases", ">=", "4"]


def test_check_names_an_attribute_that_is_not_defined(segments: Path) -> None:
    segments.write_text(SEGMENTS_TOML.replace("purchases >= 3", "attribute('age_bnd') == '65+'"))
    result = run_segments(segments, "check", str(segments), "--json")
    assert result.exit_code == 2
    [problem] = json.loads(result.stdout)["problems"]
    assert problem["reason"] == "unknown attribute age_bnd; age_band?"
    segments.write_text(SEGMENTS_TOML.replace("purchases >= 3", "attribute('age_band') == '65+'"))
    assert run_segments(segments, "check", str(segments)).exit_code == 0
