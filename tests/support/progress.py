"""Progress lines of the programs in `tests/` that take minutes."""

from __future__ import annotations

from datetime import datetime

import typer


def say(line: str) -> None:
    """Prints a line with the time of day on stderr."""
    typer.echo(f"{datetime.now():%H:%M:%S} {line}", err=True)
