"""The copies of the schemas in draft-07 are current, and accept what the schemas accept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from tests.support.generators.draft_07 import COPIES, SCHEMAS, copies, draft_07

# Of user-models, whose schema is generated and has no example.
MODEL = {"version": "2", "folder": "/models/2", "sha256": {"card.json": "0"}}
DEPLOYMENT = {"revision": 1_000, "model": MODEL, "applied_at": "2026-11-29T12:00:00Z"}
MODELS = {"deployments": [DEPLOYMENT]}


def changed(value: Any) -> Iterator[Any]:
    """The value with one part removed or replaced, at any depth."""
    yield from (None, "x", -1, [], {})
    if isinstance(value, dict):
        for key in value:
            rest = {name: each for name, each in value.items() if name != key}
            yield rest
            for other in changed(value[key]):
                yield {**value, key: other}
    elif isinstance(value, list):
        for place, each in enumerate(value[:3]):
            for other in changed(each):
                yield [*value[:place], other, *value[place + 1 :]]


def test_copies_are_current() -> None:
    """`python -m tests.support.generators.draft_07` writes them."""
    found = {file.name: file.read_text("utf-8") for file in COPIES.iterdir()}
    assert found == copies()


@pytest.mark.parametrize("name", sorted(copies()))
def test_copy_accepts_what_the_schema_accepts(name: str) -> None:
    schema, copy = (json.loads((folder / name).read_text("utf-8")) for folder in (SCHEMAS, COPIES))
    Draft7Validator.check_schema(copy)
    newer, older = Draft202012Validator(schema), Draft7Validator(copy)
    verdicts = set()
    for example in schema.get("examples", [MODELS]):
        assert newer.is_valid(example) and older.is_valid(example)
        for other in changed(example):
            verdict = newer.is_valid(other)
            assert older.is_valid(other) == verdict, other
            verdicts.add(verdict)
    assert False in verdicts


def test_keyword_that_draft_07_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="draft-07 has no prefixItems"):
        draft_07({"properties": {"x": {"prefixItems": []}}})
    assert draft_07({"properties": {"prefixItems": {"const": {"$defs": 1}}}})
