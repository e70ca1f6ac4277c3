"""The documentation matches what it describes: links, settings, commands, tables, folders."""

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from typer.main import get_command

from benchmarks.support import report
from cli.main import app
from liveprofile.settings import Settings
from tests.support.generators import reference_pages
from tests.support.mentions import Project, anchors, read_project
from tests.support.packages import PROJECT, pinned
from tests.support.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {page.name: page.read_text("utf-8") for page in PAGES}
# `liveprofile` in a code span or block, and what is after it up to a comment.
COMMAND = r"(?m)(?:`|^ {4}(?:.*[|*] +)?)liveprofile ([a-z][^`#\n]+)"
LIVEPROFILE = get_command(app)
NO_SETTINGS = {
    "metrics.md",
    "cassandra.cql",
    "cassandra.yaml",
    "model.safetensors",
    "model.blocks",
    "window.media",
    "metrics.refit",
}
# Types and sources of CloudEvents, written like modules and folders.
NO_MENTIONS = {
    "liveprofile.campaign.target",
    "liveprofile.risk.drift",
    "liveprofile.risk.flag",
    "liveprofile.segment.entered",
    "liveprofile.user.attributes",
    "liveprofile/campaign",
    "liveprofile/profile-job",
}


@pytest.mark.parametrize(
    "page", [*PAGES, *sorted((ROOT / "lab").glob("*.md"))], ids=lambda page: page.name
)
def test_every_link_has_a_target(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found.read_text("utf-8")), target


def settings() -> set[str]:
    """section.key of each."""
    return {
        f"{name}.{key}"
        for name, section in Settings.model_construct()
        if isinstance(section, BaseModel)
        for key, _ in section
    }


@pytest.mark.parametrize("name", list(reference_pages.pages()))
def test_generated_page_is_current(name: str) -> None:
    """If not: `python -m tests.support.generators.reference_pages`."""
    assert TEXT[name] == reference_pages.pages()[name]


def test_command_is_listed_with_its_whole_first_sentence() -> None:
    text = "Create tables, then submit\nthe job (docs/deploy.md). More.\n\nExample: none"
    assert reference_pages.first_sentence(text) == "Create tables, then submit the job"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_setting_of_a_page_exists(page: Path) -> None:
    text = TEXT[page.name]
    joined = re.sub(r"\\\n +", "", text)
    wrong = [words for words in re.findall(COMMAND, joined) if not is_command(words.split())]
    sections = "|".join({name.split(".")[0] for name in settings()})
    named = re.findall(rf"`((?:{sections})\.[a-z]\w+)(?:`| = )", text)
    assert (wrong, set(named) - settings() - NO_SETTINGS) == ([], set())


def is_command(words: list[str]) -> bool:
    """Whether the command exists, and all options that follow it."""
    command: Any = LIVEPROFILE
    while words and (commands := getattr(command, "commands", {})):
        # RECIPE stands for any of them.
        name = next(iter(commands)) if words[0].isupper() else words[0]
        if name not in commands:
            if command is LIVEPROFILE or not command.invoke_without_command:
                return False
            break
        command = commands[name]
        words = words[1:]
    names = {"--help"}.union(*((*each.opts, *each.secondary_opts) for each in command.params))
    return {word for word in words if word.startswith("--")} <= names


@pytest.fixture(scope="module")
def project() -> Project:
    return read_project()


def test_every_file_module_and_heading_that_is_mentioned_exists(project: Project) -> None:
    """In docstrings, comments and pages."""
    known = settings() | NO_MENTIONS
    missing = {path: project.missing(path) - known for path in project.texts}
    assert {path: sorted(names) for path, names in missing.items() if names} == {}


def test_every_page_and_heading_that_code_names_exists(project: Project) -> None:
    """In messages and descriptions, too. This file names pages that do not exist."""
    texts = {path: text for path, text in project.texts.items() if not __file__.endswith(path)}
    missing = {path: project.missing_pages(text) for path, text in texts.items()}
    assert {path: sorted(names) for path, names in missing.items() if names} == {}


@pytest.mark.parametrize(
    ("mention", "is_missing"),
    [
        ("udfs/worker.py", False),
        ("udfs/gone.py", True),
        ("gone.py", True),
        ("liveprofile/gone", True),
        ("wire/gone.py", True),
        ("liveprofile.settings.Settings", False),
        ("liveprofile.settings.gone", True),
        ("liveprofile.gone", True),
        ("docs/api.md#keys", False),
        ("docs/api.md#gone", True),
        ("docs/gone.md", True),
    ],
)
def test_mention_is_missing_if_it_names_nothing(
    project: Project, mention: str, is_missing: bool
) -> None:
    comment = f"# The rows (of {mention}).\n"
    texts = project.texts | {"udfs/example.py": comment}
    assert Project(texts).missing("udfs/example.py") == ({mention} if is_missing else set())


def test_figures_of_speed_are_of_this_code_or_say_that_they_are_older() -> None:
    """After a change of the job: measure again, or write `an earlier version` in the line."""
    lines = [line for line in TEXT["benchmarks.md"].splitlines() if "code `" in line]
    assert lines
    for line in lines:
        codes = set(re.findall(r"code `(\w+)`", line))
        assert codes == {report.job_code()} or "an earlier version" in line, line


@pytest.mark.parametrize("name", ["README.md", "model.md"])
def test_figures_of_the_model_name_the_shipped_weights(name: str) -> None:
    weights = (ROOT / "models/checkpoints/default/model.safetensors").read_bytes()
    assert re.findall(r"weights `(\w+)`", TEXT[name]) == [hashlib.sha256(weights).hexdigest()[:8]]


def test_every_table_is_documented() -> None:
    schema = (ROOT / "schemas" / "cassandra.cql").read_text("utf-8")
    tables = re.findall(r"CREATE TABLE IF NOT EXISTS \{keyspace\}\.(\w+)", schema)
    assert len(tables) >= 10
    documented_tables = re.findall(r"`(\w+)` \(", TEXT["data-inventory.md"])
    assert set(tables) <= set(documented_tables)


def test_every_dependency_has_a_reason() -> None:
    rows = re.findall(r"^- ([\w, -]+?) (\d[\d., ]+): .", TEXT["dependencies.md"], re.MULTILINE)
    documented_pins = {
        pair
        for names, versions in rows
        for pair in zip(names.split(", "), versions.split(", "), strict=False)
    }
    assert pinned("test", "docs").items() <= documented_pins


def tree(page: str, heading: str) -> str:
    return TEXT[page].split(f"## {heading}\n")[1].split("\n## ")[0]


def test_readme_is_short_and_lists_every_folder() -> None:
    assert len(TEXT["README.md"].splitlines()) < 120
    top = {
        path.name
        for path in ROOT.iterdir()
        if path.is_dir() and re.fullmatch(r"[a-z][a-z-]*", path.name)
    }
    top -= {"liveprofile_app"}  # packaging only
    assert {folder for folder in top if f"{folder}/" not in tree("README.md", "Folders")} == set()


def layers() -> list[str]:
    """Of the contract that import-linter checks, the highest first."""
    return PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]


def test_architecture_has_the_layers_of_the_contract() -> None:
    assert re.findall(r"```\n(.+?)\n```", tree("architecture.md", "Layers"), re.DOTALL) == [
        "\n".join(layers())
    ]


def test_readme_lists_packages_by_layer() -> None:
    """Except benchmarks and lab, which are listed last."""
    listed = re.findall(r"\b(\w+)/ ", tree("README.md", "Folders"))
    rank = {name: rank for rank, layer in enumerate(layers()) for name in layer.split(" | ")}
    packages = [name for name in listed if name in rank.keys() - {"benchmarks", "lab"}]
    assert packages == sorted(packages, key=rank.__getitem__)
    assert set(packages) == rank.keys() - {"benchmarks", "lab"}


@pytest.mark.parametrize(
    "package",
    ["cli", "intake", "jobs", "liveprofile", "models", "offline", "serve", "services", "udfs"],
)
def test_architecture_lists_every_package(package: str) -> None:
    folders = {file.parent.name for file in (ROOT / package).rglob("__init__.py")}
    listed = tree("architecture.md", "Folders")
    assert {folder for folder in folders if f"{folder}/" not in listed} == set()


def test_folders_that_architecture_lists_exist() -> None:
    tracked = {part for path in ROOT.glob("[a-z]*/**/") for part in path.relative_to(ROOT).parts}
    listed = set(re.findall(r"([a-z][\w-]*)/", tree("architecture.md", "Folders")))
    assert listed <= tracked
