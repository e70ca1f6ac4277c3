"""Definitions of attributes, and the values and conditions that they allow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from liveprofile.attributes.definitions import AttributesError, Catalogue, read_catalogue
from liveprofile.attributes.statements import new_statement, parse_event, to_event
from liveprofile.rules.conditions import parse_condition
from tests.support.paths import ROOT

SCHEMA = json.loads((ROOT / "schemas/user-attributes.schema.json").read_text("utf-8"))
DEFINITIONS = """
version = "1"

[[attributes]]
id = "vip"
type = "flag"
description = "A valued customer"

[[attributes]]
id = "score"
type = "number"
min = 0
max = 1
description = "A score"

[[attributes]]
id = "band"
type = "enum"
values = ["low", "high"]
description = "A band"

[[attributes]]
id = "city"
type = "text"
max_chars = 10
description = "A city"
"""


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return read(tmp_path, DEFINITIONS)


def read(folder: Path, text: str) -> Catalogue:
    file = folder / "attributes.toml"
    file.write_text(text, encoding="utf-8")
    return read_catalogue(file)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"vip": True, "score": 0.5, "band": "low", "city": "Łódź"}, None),
        ({"score": 1}, None),
        ({"vip": 1}, "vip: must be true or false"),
        ({"score": "0.5"}, "score: must be a number"),
        ({"score": True}, "score: must be a number"),
        ({"score": float("nan")}, "score: must be a number"),
        ({"score": 2}, "score: must be from 0 to 1"),
        ({"band": "mid"}, "band: must be one of low, high"),
        ({"city": 7}, "city: must be a text"),
        ({"city": ""}, "city: must have 1 to 10 characters, not 0"),
        ({"city": "x" * 11}, "city: must have 1 to 10 characters, not 11"),
        ({"city": "a\n"}, "city: must not have control characters"),
        ({"scor": 1}, "unknown attribute scor; score?"),
    ],
)
def test_value_is_checked_by_its_type(
    catalogue: Catalogue, values: dict[str, Any], problem: str | None
) -> None:
    assert catalogue.value_problems(values) == ([problem] if problem else [])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("type = \"flag\"", "type = \"vector\""), "vip: type: Input should be 'flag'"),
        (("max_chars = 10", "max_chars = 1000"), "less than or equal to 100"),
        (('values = ["low", "high"]', ""), "type enum needs values"),
        (("max = 1", "max = -1"), "min 0 is above max -1"),
        (("max_chars = 10", "values = []"), "type text has no values"),
        (('id = "band"', 'id = "vip"'), "another attribute has the same id"),
        (('id = "band"', 'id = "Band"'), "String should match pattern"),
        (('version = "1"', "owner = 1"), "Extra inputs are not permitted"),
    ],
)  # fmt: skip
def test_invalid_definition_is_reported(
    tmp_path: Path, change: tuple[str, str], reason: str
) -> None:
    with pytest.raises(AttributesError) as error:
        read(tmp_path, DEFINITIONS.replace(*change))
    assert reason in "\n".join(error.value.lines())


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('attribute("vip") and attribute("score") > 0.5 and attribute("band") == "low"', None),
        ('attribute("vpi")', "unknown attribute vpi; vip?"),
        ('attribute("band") > 1', "attribute band is of type enum, but is used as a number"),
        ('not attribute("score")', "attribute score is of type number, but is used as a condition"),
    ],
)
def test_condition_is_checked_against_the_definitions(
    catalogue: Catalogue, text: str, fault: str | None
) -> None:
    condition = parse_condition(text, {}, {}, {"attribute": "attribute"})
    assert catalogue.condition_faults(condition) == ([fault] if fault else [])


def test_shipped_definitions_are_valid() -> None:
    assert "age_band" in read_catalogue(ROOT / "attributes.toml").by_id


def test_examples_of_the_schema_are_statements_of_the_shipped_definitions() -> None:
    shipped = read_catalogue(ROOT / "attributes.toml")
    for example in SCHEMA["examples"]:
        statement = parse_event(json.dumps(example).encode())
        assert shipped.value_problems(statement.values) == []


def test_sent_event_satisfies_the_schema_and_is_read_as_it_was_sent() -> None:
    statement = new_statement(
        user_id="ü",
        source="id.check",
        kind="verified",
        purpose="risk",
        time_ms=1_700_000_000_123,
        expires_ms=1_700_000_000_124,
        values={"a": True, "b": -1.5, "c": "x" * 100, "d": 7},
    )
    event = to_event(statement)
    jsonschema.validate(json.loads(event), SCHEMA)
    assert parse_event(event) == statement
    assert parse_event(event).digest == statement.digest
