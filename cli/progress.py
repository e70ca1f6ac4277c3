"""How far a long command is, on stderr."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from liveprofile.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console

LINE_EVERY_S = 30.0


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar on stderr for each stage; where that is no terminal, a line now and then."""
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TextColumn("{task.completed}/{task.total}"),
        bars.TimeRemainingColumn(),
    )
    # Of the processes that torchrun starts the first speaks for all.
    console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")
    if not console.is_terminal:
        yield _in_lines(console)
        return
    with bars.Progress(*columns, console=console) as bar:
        stages = {}

        def on_progress(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bar.add_task(stage, total=total)
            bar.update(stages[stage], completed=done, total=total)

        yield on_progress


def _in_lines(console: Console) -> Progress:
    done_with: set[str] = set()
    said_s = -LINE_EVERY_S

    def on_progress(stage: str, done: int, total: int) -> None:
        nonlocal said_s
        now_s = time.monotonic()
        ends = done == total and stage not in done_with
        if ends or now_s - said_s >= LINE_EVERY_S:
            said_s = now_s
            done_with.update({stage} if ends else ())
            console.print(f"{stage} {done}/{total}", highlight=False)

    return on_progress


def note(line: str) -> None:
    """A line on stderr, above the bars."""
    typer.echo(line, err=True)
