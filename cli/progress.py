"""Progress of long commands, on stderr."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from liveprofile.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console

LINE_INTERVAL_S = 30.0


@contextmanager
def progress() -> Iterator[Progress]:
    """Shows a progress bar per stage; without a terminal, a line at most every 30 s."""
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TextColumn("{task.completed}/{task.total}"),
        bars.TimeRemainingColumn(),
    )
    # torchrun starts several processes: only the first prints.
    console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")
    if not console.is_terminal:
        yield _line_progress(console)
        return
    with bars.Progress(*columns, console=console) as bar:
        stages = {}

        def on_progress(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bar.add_task(stage, total=total)
            bar.update(stages[stage], completed=done, total=total)

        yield on_progress


def _line_progress(console: Console) -> Progress:
    finished: set[str] = set()
    printed_s = -LINE_INTERVAL_S

    def on_progress(stage: str, done: int, total: int) -> None:
        nonlocal printed_s
        now_s = time.monotonic()
        finishes = done == total and stage not in finished
        if finishes or now_s - printed_s >= LINE_INTERVAL_S:
            printed_s = now_s
            finished.update({stage} if finishes else ())
            console.print(f"{stage} {done}/{total}", highlight=False)

    return on_progress


@contextmanager
def count_bar(description: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
    """Shows a transient bar with a count and yields the function that advances it.

    total: the expected count; 0 if unknown. Without a terminal nothing is shown.
    """
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        *([bars.TextColumn(unit)] if unit else []),
        bars.TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with bars.Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)


def print_line(line: str) -> None:
    """Prints a line on stderr, above the bars."""
    typer.echo(line, err=True)
