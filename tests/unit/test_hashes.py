"""Hashed requirements have the versions that the other files pin."""

from __future__ import annotations

import re

from tests.support.paths import ROOT

HASHED = re.compile(r"(?P<pin>[a-z0-9-]+==[0-9.]+) --hash=sha256:[0-9a-f]{64}")


def lines(name: str) -> list[str]:
    text = (ROOT / name).read_text("utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_hashed_pins_are_those_of_the_other_files() -> None:
    matches = [HASHED.fullmatch(line) for line in lines("requirements-hashed.txt")]
    assert matches and all(matches)
    pinned = {*lines("requirements.txt"), *lines("requirements-no-deps.txt")}
    assert {match["pin"] for match in matches if match} <= pinned


def test_hashed_packages_are_installed_first() -> None:
    installs = [line for line in lines("stack/install_venv.sh") if line.startswith("pip -")]
    assert installs[0] == "pip --no-deps --require-hashes -r requirements-hashed.txt"
