"""No table, topic or state is kept without a limit, and each write of a row has a TTL."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from cli.main import app
from liveprofile.errors import ConfigError
from liveprofile.privacy.retention import (
    STATES,
    Kept,
    retention,
    unlimited,
)
from liveprofile.settings import Settings, load
from liveprofile.settings.sections import MAX_TTL_S
from liveprofile.storage.schema import table_columns
from liveprofile.units import DAY_MS, HOUR_MS
from tests.support.paths import ROOT

PACKAGES = (
    "liveprofile", "udfs", "offline", "models", "serve", "console", "monitoring", "stack", "cli",
)  # fmt: skip
# Statements without a TTL, by a part of their text. Not about users; they never grow.
WITHOUT_TTL = {"drift_state (scope, start) VALUES ('{_START}', ?)": "when drift was first watched"}


def kept(settings: Settings) -> dict[str, Kept]:
    return {each.place: each for each in retention(settings)}


def test_every_table_has_a_limit_under_a_setting_that_exists() -> None:
    found = kept(load())
    assert table_columns().keys() == {each.place for each in found.values() if each.kind == "table"}
    assert all(
        0 < (each.limit_ms or 0) <= MAX_TTL_S * 1_000
        for each in found.values()
        if each.kind == "table"
    )


def test_only_topics_without_users_have_no_limit() -> None:
    assert unlimited(load()) == []
    endless = {each.place for each in retention(load()) if each.limit_ms is None}
    assert endless == {"risk-rules", "segment-definitions", "user-models"}
    forever = load(topics={"retention_ms": -1, "feedback_retention_ms": -1})
    names = {each.place for each in unlimited(forever)}
    assert {"behavior-events", "behavior-events-late", "risk-feedback"} <= names


def test_limits_follow_the_settings() -> None:
    found = kept(
        load(
            cassandra={"profile_ttl_s": 86_400, "attribute_keep_s": 86_400},
            scoring={"score_ttl_s": 3_600},
            state={"user_ttl_ms": 2 * DAY_MS},
            topics={"retention_ms": 5_000},
        )
    )
    expected = {
        "user_profile": DAY_MS,
        "user_segment": 2 * DAY_MS,
        "risk_score_hours": 2 * HOUR_MS,
        "user_attribute": 3_661 * DAY_MS,
        "risk_snooze": 365 * DAY_MS,
        "behavior-events": 5_000,
        "memories": 3 * DAY_MS,
        "counted": load().window.count_ttl_ms,
    }
    assert {place: found[place].limit_ms for place in expected} == expected


def test_every_state_of_the_job_has_a_limit() -> None:
    page = (ROOT / "docs" / "state-and-failures.md").read_text("utf-8")
    table = page.split("## State in Flink\n")[1].strip().split("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    # Sources and sinks keep offsets only, and a local aggregate nothing at a checkpoint.
    views = {row[0].strip("`") for row in rows if row[0].startswith("`")}
    assert views == STATES.keys()
    for row in rows:
        view = row[0].strip("`")
        for setting in re.findall(r"`((?:state|scoring)\.\w+_ms)`", row[5]):
            assert setting in STATES[view].setting, view


def test_every_write_of_a_row_has_a_ttl() -> None:
    found = list(statements())
    assert len(found) >= 8 and sum("UPDATE" in text for _, text in found) >= 5
    endless = [
        (place, text)
        for place, text in found
        if "TTL" not in text and not any(part in text for part in WITHOUT_TTL)
    ]
    assert endless == []
    used = [part for part in WITHOUT_TTL if any(part in text for _, text in found)]
    assert used == list(WITHOUT_TTL)


def statements() -> Iterator[tuple[str, str]]:
    """Each CQL text that writes a row, with its file and line; expressions stand in braces."""
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            source = file.read_text("utf-8")
            if "INSERT INTO" not in source and "UPDATE" not in source:
                continue
            for node, text in texts(ast.parse(source)):
                if re.search(r"\bINSERT INTO\s|\bUPDATE\s+\S+\s+(USING|SET)\b", text):
                    yield f"{relative(file)}:{node.lineno}", text


def texts(tree: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    parts: set[ast.expr] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts.update(node.values)
            yield node, "".join(map(part_text, node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in parts:
            yield node, node.value


def part_text(part: ast.expr) -> str:
    if isinstance(part, ast.FormattedValue):
        return f"{{{ast.unparse(part.value)}}}"
    return str(part.value) if isinstance(part, ast.Constant) else ""


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def test_places_command_prints_each_and_fails_without_a_limit(tmp_path: Path) -> None:
    file = tmp_path / "liveprofile.toml"
    file.write_text("")
    done = CliRunner().invoke(app, ["privacy", "data-inventory", "--json", "--config", str(file)])
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["place"] for row in rows] == [each.place for each in retention(load())]
    file.write_text("[topics]\nretention_ms = -1\n")
    done = CliRunner().invoke(app, ["privacy", "data-inventory", "--config", str(file)])
    assert done.exit_code == 1 and "behavior-events (topics.retention_ms)" in done.stderr
    assert "no limit" in done.stdout


@pytest.mark.parametrize("value", [0, MAX_TTL_S + 1])
def test_ttl_of_a_table_is_at_least_a_second_and_at_most_20_years(value: int) -> None:
    sections = {name: section for name, section in load() if isinstance(section, BaseModel)}
    ttls = [
        (name, key)
        for name, section in sections.items()
        for key in type(section).model_fields
        if key.endswith("_ttl_s")
    ]
    assert len(ttls) >= 5
    for section, key in ttls:
        with pytest.raises(ConfigError, match=rf"{section}.{key} = {value}: Input should be"):
            load(**{section: {key: value}})
