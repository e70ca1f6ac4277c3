"""The modules of tests/ that are run with `python -m` are commands: --help writes nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

MAIN = re.compile(r'^if __name__ == "__main__":\n((?: .*\n)+)', re.MULTILINE)
# Both parse the arguments before anything else happens.
PARSERS = ("    typer.run(main)\n", "    sys.exit(main())\n")
SUBMITTED = {"failing_job", "large_results_job"}  # to Flink, not run by people
COMMANDS = {
    file: match[1]
    for file in sorted((ROOT / "tests").rglob("*.py"))
    if file.stem not in SUBMITTED and (match := MAIN.search(file.read_text(encoding="utf-8")))
}


def test_commands_are_found() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("file", COMMANDS, ids=lambda file: file.stem)
def test_command_parses_its_arguments(file: Path) -> None:
    assert COMMANDS[file] in PARSERS
