"""Writes the copies of the JSON Schemas in draft-07, which AsyncAPI's tools read.

    python -m tests.support.generators.draft_07

Of what the schemas use, draft-07 lacks only `$defs`, and ignores siblings of `$ref`.
"""

from __future__ import annotations

import json
from typing import Any

import typer

from tests.support.paths import ROOT

SCHEMAS = ROOT / "schemas"
COPIES = SCHEMAS / "draft-07"
# Keywords that draft-07 lacks or understands differently.
NEWER = {
    "$anchor", "$dynamicAnchor", "$dynamicRef", "$vocabulary", "dependentRequired",
    "dependentSchemas", "maxContains", "minContains", "prefixItems", "unevaluatedItems",
    "unevaluatedProperties",
}  # fmt: skip
NAMES = {"properties", "$defs", "patternProperties"}  # their keys are names, not keywords
VALUES = {"const", "default", "enum", "examples"}


def draft_07(schema: Any) -> Any:
    """The schema in draft-07. Raises ValueError if it uses a newer keyword."""
    if isinstance(schema, list):
        return [draft_07(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if newer := NEWER & schema.keys():
        raise ValueError(f"draft-07 has no {sorted(newer)[0]}")
    converted: dict[str, Any] = {}
    for key, value in schema.items():
        if key in NAMES:
            value = {name: draft_07(each) for name, each in value.items()}
        elif key not in VALUES:
            value = draft_07(value)
        converted["definitions" if key == "$defs" else key] = value
    if "$schema" in converted:
        converted["$schema"] = "http://json-schema.org/draft-07/schema#"
        converted["$id"] = converted["$id"].replace("/schemas/", "/schemas/draft-07/")
    if "$ref" in converted:
        reference = {"$ref": converted.pop("$ref").replace("#/$defs/", "#/definitions/")}
        if not converted:
            return reference
        converted["allOf"] = [reference, *converted.get("allOf", [])]
    return converted


def copies() -> dict[str, str]:
    """{file name: text} of all copies."""
    return {
        file.name: json.dumps(draft_07(json.loads(file.read_text("utf-8"))), indent=2) + "\n"
        for file in sorted(SCHEMAS.glob("*.schema.json"))
    }


def main() -> None:
    """Writes the copies of the JSON Schemas in draft-07."""
    COPIES.mkdir(exist_ok=True)
    for name, text in copies().items():
        (COPIES / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
