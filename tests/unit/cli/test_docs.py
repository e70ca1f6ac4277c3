"""The documentation against what it describes: links, settings, commands, tables, files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr
from typer.main import get_command

from cli.main import app
from liveprofile.config import Settings
from models.profile.recipes import RECIPES
from tests.support.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {page.name: page.read_text("utf-8") for page in PAGES}
EVERYTHING = "\n".join(TEXT.values())


def anchors(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found.read_text("utf-8")), target


def settings() -> dict[str, str]:
    """section.key: default, as operations.md writes it."""
    return {
        f"{name}.{key}": written(value)
        for name, section in Settings.model_construct()
        if isinstance(section, BaseModel)
        for key, value in section
    }


def written(value: Any) -> str:
    if isinstance(value, SecretStr) or value == "":
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def documented() -> Iterator[tuple[str, str]]:
    section = ""
    tables = TEXT["deployment.md"].split("<!-- settings table: begin -->")[1]
    for line in tables.split("<!-- settings table: end -->")[0].splitlines():
        if head := re.match(r"\| `\[(\w+)\]`", line):
            section = head[1]
        elif row := re.match(r"\| (`[^|]+`) \| ([^|]*) \|", line):
            for key in re.findall(r"`(\w+)`", row[1]):
                yield f"{section}.{key}", row[2].split(" (")[0]


def test_every_setting_stands_in_the_table_with_its_default() -> None:
    assert dict(documented()) == settings()


def commands(command: Any, *path: str) -> Iterator[str]:
    """Those that do something, as they are typed."""
    below = getattr(command, "commands", {})
    for name, other in below.items():
        if name not in RECIPES:  # models/profile/recipes.py has those
            yield from commands(other, *path, name)
    if not below:
        yield " ".join(path)


@pytest.mark.parametrize("command", list(commands(get_command(app), "liveprofile")))
def test_every_command_is_told_of(command: str) -> None:
    path = command.split()[1:]
    # Of several in one sentence the first is written out: `liveprofile show USER`, `deltas USER`.
    told = (command, f"`{' '.join(path)}`", f"`{' '.join(path)} ", f"`make {' '.join(path)}`")
    assert any(one in EVERYTHING for one in told)


def test_every_table_is_told_of() -> None:
    schema = (ROOT / "schemas" / "cassandra.cql").read_text("utf-8")
    tables = re.findall(r"CREATE TABLE IF NOT EXISTS \{keyspace\}\.(\w+)", schema)
    assert len(tables) >= 10
    told = re.findall(r"^\| `(\w+)` \| ", EVERYTHING, re.MULTILINE)
    assert set(tables) <= set(told)


def test_every_package_has_its_reason() -> None:
    pinned = re.findall(
        r"^([\w-]+)==(\S+)$", (ROOT / "requirements.txt").read_text("utf-8"), re.MULTILINE
    )
    rows = re.findall(r"^\| ([\w, -]+) \| ([\d., ]+) \| .", TEXT["dependencies.md"], re.MULTILINE)
    told = {
        pair
        for names, versions in rows
        for pair in zip(names.split(", "), versions.split(", "), strict=False)
    }
    assert set(pinned) <= told


@pytest.mark.parametrize("folder", ["jobs", "udfs", "models", "liveprofile", "stack"])
def test_the_readme_lists_every_file(folder: str) -> None:
    tree = TEXT["README.md"].split("## What is where")[1].split("```")[1]
    listed = {word.removesuffix("/") for word in tree.split()}
    files = (
        path.name
        for path in (ROOT / folder).iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    )
    missing = [
        name
        for name in files
        if name != "__init__.py" and not any(fnmatch(name, pattern) for pattern in listed)
    ]
    assert not missing
