"""Every row in Cassandra expires: all writes have a TTL, and no setting turns it off."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from liveprofile.errors import ConfigError
from liveprofile.resources import ROOT
from liveprofile.settings import load
from liveprofile.settings.sections import MAX_TTL_S

PACKAGES = (
    "cli",
    "liveprofile",
    "offline",
    "serve",
    "services",
    "udfs",
)  # those that write to Cassandra
WRITE = re.compile(r"^(INSERT INTO|UPDATE) \S+")
# The first hour ever counted: one row for all time, of no user.
NO_TTL = {"INSERT INTO {}.drift_state (scope, start) VALUES ('{}', ?)"}


def texts(node: ast.AST) -> Iterator[str]:
    """The string literals of a syntax tree; an f-string has {} for each of its expressions."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(
            part.value if isinstance(part, ast.Constant) else "{}" for part in node.values
        )
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for child in ast.iter_child_nodes(node):
        yield from texts(child)


def write_statements() -> list[str]:
    return [
        text
        for package in PACKAGES
        for file in sorted((ROOT / package).rglob("*.py"))
        for text in texts(ast.parse(file.read_text("utf-8")))
        if WRITE.match(text)
    ]


def test_every_write_has_a_ttl() -> None:
    statements = write_statements()
    assert len(statements) >= 10
    assert {text for text in statements if " TTL " not in text} == NO_TTL


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
