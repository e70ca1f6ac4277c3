"""Tests of `liveprofile segments`: output, records written to the topic, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from liveprofile.kafka.records import Record
from tests.support.memory.kafka import MemoryKafka
from tests.support.rows.segment_examples import SEGMENTS_TOML


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    kafka = MemoryKafka()
    kafka.install(monkeypatch)
    return kafka.records["segment-definitions"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "segments.toml"
    path.write_text(SEGMENTS_TOML)
    return path


def run(file: Path, *arguments: str) -> Result:
    config = file.with_name("liveprofile.toml")
    config.write_text(f'segments = "{file}"\n')
    return CliRunner().invoke(app, ["segments", *arguments, "--config", str(config)])


def test_apply_writes_changes_that_list_then_shows(file: Path, topic: list[Record]) -> None:
    assert f"version 1, from file {file}" in run(file, "list").stdout
    assert run(file, "apply", str(file), "--dry-run").stdout.split()[-3:] == ["added", "buyer", "1"]
    assert topic == []
    run(file, "apply", str(file), "--by", "anna")
    assert [record.key for record in topic] == [b"*", b"buyer"]
    assert json.loads(topic[1].value)["applied_by"] == "anna"
    file.write_text(SEGMENTS_TOML.replace(">= 3", ">= 4"))
    listed = json.loads(run(file, "apply", str(file), "--json").stdout)
    assert listed["changes"] == [{"segment_id": "buyer", "what": "changed", "version": 2}]
    last = run(file, "list").stdout.rstrip().splitlines()[-1]
    assert last.split() == ["buyer", "2", "ACTIVE", "purchases", ">=", "4"]


def test_check_names_an_attribute_that_is_not_defined(file: Path) -> None:
    file.write_text(SEGMENTS_TOML.replace("purchases >= 3", "attribute('age_bnd') == '65+'"))
    result = run(file, "check", str(file), "--json")
    assert result.exit_code == 2
    [problem] = json.loads(result.stdout)["problems"]
    assert problem["reason"] == "unknown attribute age_bnd; age_band?"
    file.write_text(SEGMENTS_TOML.replace("purchases >= 3", "attribute('age_band') == '65+'"))
    assert run(file, "check", str(file)).exit_code == 0
