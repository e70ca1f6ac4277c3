"""A change of a published JSON Schema breaks neither old producers nor old consumers.

tests/released_schemas has the schemas of the last release. A deliberate break changes the copy in
the same commit, and the release notes say so (docs/contributing.md).
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.schema_compatibility import RELEASED, SCHEMAS, breaks

# Who writes and who reads decides which direction must hold: records of old producers are accepted
# by the new schema, or records of the new job are accepted by the schema that old consumers have.
WE_READ = {"behavior-event", "risk-feedback", "user-attributes", "user-consents"}
WE_WRITE = {"risk-alert", "drift-alert", "segment-change"}
# Compacted topics keep old records, and after a rollback an old job reads new ones.
BOTH = {"risk-rule", "segment-definition", "user-models", "user-erasures", "user-merges"}


def schema(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.schema.json").read_text("utf-8"))


def names_in(folder: Path) -> set[str]:
    return {file.name.removesuffix(".schema.json") for file in folder.glob("*.schema.json")}


PUBLISHED = names_in(RELEASED)  # a schema that is new in this version has promised nothing yet


def test_every_schema_has_a_direction_and_none_is_lost() -> None:
    assert names_in(SCHEMAS) == WE_READ | WE_WRITE | BOTH
    assert names_in(SCHEMAS) >= PUBLISHED


@pytest.mark.parametrize("name", sorted((WE_READ | BOTH) & PUBLISHED))
def test_records_of_old_producers_are_accepted(name: str) -> None:
    assert breaks(schema(RELEASED, name), schema(SCHEMAS, name)) == []


@pytest.mark.parametrize("name", sorted((WE_WRITE | BOTH) & PUBLISHED))
def test_old_consumers_accept_the_records_of_the_job(name: str) -> None:
    assert breaks(schema(SCHEMAS, name), schema(RELEASED, name)) == []


OLD = {
    "type": "object",
    "required": ["id"],
    "properties": {
        "id": {"$ref": "#/$defs/id"},
        "level": {"enum": ["low", "high"]},
        "value": {"type": ["number", "null"], "minimum": 0},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 9}},
        "kind": {"const": "flag"},
    },
    "additionalProperties": True,
    "$defs": {"id": {"type": "string", "minLength": 1, "pattern": "^[a-z]+$"}},
}


def changed(**properties: Any) -> dict[str, Any]:
    new = copy.deepcopy(OLD)
    new["properties"] |= properties
    return new


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (OLD | {"required": ["id", "level"]}, "$.level: is required now"),
        (OLD | {"additionalProperties": False}, "$.*: not is new or differs"),
        (changed(level={"enum": ["low"]}), "$.level: values ['high'] are no longer accepted"),
        (changed(kind={"const": "case"}), "$.kind: values ['flag'] are no longer accepted"),
        (changed(value={"type": "number", "minimum": 0}), "type null is no longer accepted"),
        (changed(value={"type": ["integer", "null"], "minimum": 0}), "type number is no longer"),
        (changed(value={"type": ["number", "null"], "minimum": 1}), "minimum is 1, before 0"),
        (changed(value={"type": ["number", "null"], "minimum": 0, "maximum": 5}), "maximum is 5"),
        (changed(tags={"type": "array", "items": {"type": "string", "maxLength": 8}}), "$.tags[]"),
        (changed(tags={"type": "array", "items": {"type": "string"}, "minItems": 1}), "minItems"),
        (changed(more={"type": "string"}), "$.more: type array"),
        (changed(level={"enum": ["low", "high"], "not": {}}), "$.level: not is new or differs"),
        (
            OLD | {"$defs": {"id": {"type": "string", "minLength": 1, "pattern": "^[a-c]+$"}}},
            "$.id: pattern is new or differs",
        ),
    ],
)
def test_narrower_schema_is_a_break(new: dict[str, Any], expected: str) -> None:
    found = breaks(OLD, new)
    assert any(expected in line for line in found), found


@pytest.mark.parametrize(
    "new",
    [
        OLD,
        OLD | {"required": []},
        OLD | {"title": "Another title"},
        changed(level={"enum": ["low", "high", "critical"]}),
        changed(level={}),
        changed(value={"type": ["number", "null", "string"]}),
        changed(tags={"type": "array", "items": {"type": "string", "maxLength": 10}}),
        changed(id={"type": "string", "minLength": 1, "pattern": "^[a-z]+$"}),
        changed(more={}),
    ],
)
def test_wider_schema_is_no_break(new: dict[str, Any]) -> None:
    assert breaks(OLD, new) == []


def test_closed_schema_that_loses_a_field_is_a_break() -> None:
    closed = OLD | {"additionalProperties": False}
    new = copy.deepcopy(closed)
    del new["properties"]["tags"]
    assert breaks(closed, new) == ["$.tags: not is new or differs"]


def test_open_schema_that_promises_one_field_less_is_a_break_for_consumers() -> None:
    """The consumer's schema requires `id`; a record of the new job may lack it."""
    assert breaks(OLD | {"required": []}, OLD) == ["$.id: is required now"]


def test_recursive_schema_is_compared_once() -> None:
    tree = {
        "$ref": "#/$defs/node",
        "$defs": {"node": {"type": "object", "properties": {"child": {"$ref": "#/$defs/node"}}}},
    }
    assert breaks(tree, tree) == []
