"""What tests and programs print: lines after the results, and progress."""

from datetime import datetime

import typer

LINES: list[str] = []  # printed at the end of a test run; xdist workers send theirs


def say(line: str) -> None:
    """Prints a line with the time of day on stderr, of a program that takes minutes."""
    typer.echo(f"{datetime.now():%H:%M:%S} {line}", err=True)
