"""The log of looks at a test part.

Each evaluation on a test part appends a JSON line: when, at which commit, which recipe and
checkpoint, and the figures. A test part that was looked at often is no longer a test.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from liveprofile.errors import InputError
from liveprofile.resources import ROOT


def logged(file: Path, recipe: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns `measure()`, a report on a test part, after appending it to the log.

    The report has "version" (of the checkpoint) and "rows" (the fingerprint of the data); the rest
    are the figures. Raises InputError before measuring if the log cannot be written: no look may go
    unlogged.
    """
    try:
        with file.open("ab") as log:
            report = measure()
            look = {
                "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "commit": _commit(),
                "recipe": recipe,
                "checkpoint": report["version"],
                "rows": report["rows"],
                "figures": {key: report[key] for key in report if key not in ("version", "rows")},
            }
            log.write(orjson.dumps(look) + b"\n")
    except OSError as error:
        raise InputError(f"test log {file}: {error.strerror}") from None
    return report


def _commit() -> str:
    """The commit of the code, with "+changes" if files differ from it; "" without a repository."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty=+changes"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
